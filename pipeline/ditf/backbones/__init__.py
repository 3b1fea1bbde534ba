"""Backbones: models that turn an image and a prompt into features; their interface, sources and costs."""
