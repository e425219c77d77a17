"""Reads image and alt-text pairs from files and the Hub."""
