"""A simulated study: its arms, what they scored, what it cost, what it leaves behind."""
