"""Real federations: made, submitted to, watched, fetched from, looked after."""
