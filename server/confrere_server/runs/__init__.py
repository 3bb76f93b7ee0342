"""Submitted runs: queued, conducted, survived, published."""
