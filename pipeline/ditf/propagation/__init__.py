"""Propagation of labels through the frames of a video."""
