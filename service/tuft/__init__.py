"""TuFT: a persistent, multi-tenant fine-tuning service that speaks the Tinker API."""

__version__ = "0.1.0"
