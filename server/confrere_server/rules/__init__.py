"""Rules that join updates, one a file; the file name is the name in a run."""
