"""The coordinator's side: it calls rounds and joins updates; it never sees an image."""
