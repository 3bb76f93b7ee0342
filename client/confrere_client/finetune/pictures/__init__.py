"""Pictures of what a network answers, for people at the site to look at: they never leave it."""
