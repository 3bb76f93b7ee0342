"""Patient-level differential privacy: the engine, its gradients, what pays for it."""
