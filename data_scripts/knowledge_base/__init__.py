"""Entities with their names, descriptions, links and types."""
