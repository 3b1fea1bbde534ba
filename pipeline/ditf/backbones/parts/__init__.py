"""Parts that families share, and the tiny models."""
