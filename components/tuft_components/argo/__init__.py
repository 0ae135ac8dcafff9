"""The Argo face of the steps: one template a step, made from the contracts and a profile."""
