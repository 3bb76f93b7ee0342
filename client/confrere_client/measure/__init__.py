"""What is told of features: their health without labels, what they know with labels, how surely."""
