"""Tokens and letters: the ground of linking, which knows nobody."""
