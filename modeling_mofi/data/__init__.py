"""Training data: rows, entities, augmentation and batches."""
