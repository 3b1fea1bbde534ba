"""Data sets: one module per official layout that is read into a catalog."""
