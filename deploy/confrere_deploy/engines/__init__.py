"""Ways to carry a simulated federation, one a file; the file name is what --engine takes."""
