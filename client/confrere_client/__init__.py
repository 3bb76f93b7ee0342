"""The hospital's side: it alone opens images, and it may refuse."""
