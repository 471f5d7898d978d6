"""Step and gain of each task by the user's own measure."""
