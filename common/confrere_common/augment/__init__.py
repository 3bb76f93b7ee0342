"""Batched augmentation on the training device: what is drawn stands apart from what is done."""
