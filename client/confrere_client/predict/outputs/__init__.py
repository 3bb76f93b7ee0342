"""What each task's answers are written as: one file a task, found by its name."""
