"""Differential privacy of patients: clip and noise, what they cost, and the ledger of it."""
