"""Training: the Trainer, its settings, checkpoints and schedules."""
