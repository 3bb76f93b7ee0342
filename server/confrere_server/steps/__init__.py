"""Server steps on the joined update, one a file; the file name is the name in a run."""
