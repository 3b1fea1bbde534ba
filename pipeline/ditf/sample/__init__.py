"""Synthetic sample data in the official layouts of data sets."""
