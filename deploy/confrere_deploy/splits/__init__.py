"""Ways to spread patients over simulated sites, one a file; the file name is the name in a run."""
