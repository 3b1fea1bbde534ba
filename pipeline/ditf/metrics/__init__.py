"""Metrics, from predictions alone."""
