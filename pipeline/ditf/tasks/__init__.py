"""Tasks: one module per evaluation of features."""
