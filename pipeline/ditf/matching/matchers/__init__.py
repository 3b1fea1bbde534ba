"""Matchers: one module per way to find the match of a point."""
