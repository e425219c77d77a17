"""Metrics as functions on arrays; each folder is an `evaluate` module: `evaluate.load("metrics/retrieval_map")`."""
