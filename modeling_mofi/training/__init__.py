"""Training: the Trainer, its settings, checkpoints and schedules."""

from ..auto import MofiModel  # noqa: F401 - registers MOFI with the Auto classes, in a data build too
