"""Evaluates image encoders: embeds each data set once, then one file per task."""
