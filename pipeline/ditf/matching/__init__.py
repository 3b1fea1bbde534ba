"""Matching: the target pixel of greatest cosine similarity to a source descriptor, without upsampling descriptors."""
