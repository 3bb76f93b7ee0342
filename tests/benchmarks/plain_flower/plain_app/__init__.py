"""A thin Flower app: what Flower users write, but for the training."""
