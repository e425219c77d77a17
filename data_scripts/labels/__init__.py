"""From entities to labels, splits and the written dataset."""
