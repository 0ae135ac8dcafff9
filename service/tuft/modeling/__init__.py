"""Base models and LoRA adapters, shared by training and sampling so that numerics are the same."""
