"""Retrieval: an index over the tokens of a store, and search in it."""
