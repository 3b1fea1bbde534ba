"""Figures: matches, masks, features, places and charts."""
