"""From alt-text to mentions and candidates."""
