"""The sampler worker: engines, policies, and the loop between queue and engine."""
