"""What the two sides share: contracts, encoders, methods, values on the wire. It opens no image and no socket."""
