"""Asking a fine-tuned network about a hospital's own images: answers stay there."""
