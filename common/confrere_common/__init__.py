"""What both sides share: contracts, encoders, methods, values. It opens no image, no socket."""
