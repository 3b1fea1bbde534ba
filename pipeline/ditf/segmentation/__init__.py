"""Semantic segmentation: a linear probe on features."""
