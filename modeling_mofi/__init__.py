"""MOFI for Hugging Face: image representations learned from noisy entity-annotated images."""
