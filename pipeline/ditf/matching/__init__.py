"""Matching: find the pixel of a target image that is most similar to a point of a source image."""
