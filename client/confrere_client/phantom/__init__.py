"""The embedded phantom: a seeded generator of medical-looking images of several modalities."""
