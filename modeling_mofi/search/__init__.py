"""What a trained model is used for: naming and finding."""

from ..auto import MofiModel  # noqa: F401 - registers MOFI with the Auto classes, in a data build too
