"""Runs work over shards, in one process or many, and commits what it writes."""
