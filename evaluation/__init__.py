"""Evaluates image encoders: embeds each dataset once, then one file per task."""
