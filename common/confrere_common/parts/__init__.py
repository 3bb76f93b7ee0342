"""What methods, encoders and tasks are built of, when more than one of them needs it."""
