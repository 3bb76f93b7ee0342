"""Where images come from, one source a file; the file name is the name in a run."""
