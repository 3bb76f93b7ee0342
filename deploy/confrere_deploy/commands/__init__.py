"""The command line by role: one file for the coordinator, one for the hospital."""
