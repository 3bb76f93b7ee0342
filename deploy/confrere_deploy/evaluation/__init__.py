"""What an encoder is worth: few labels, unseen sites, worse images, honest confidence, groups."""
