"""What people read of a build: page, card, checks."""
