"""Images decoded once, cached, and grouped by patient."""
