"""From images and candidates to similarities and entities."""
