"""What lies between rounds and sites: Flower's SuperLink, its edge to the outside, errands."""
