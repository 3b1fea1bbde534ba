"""Train the miniature: a FLUX-shaped diffusion transformer of 7.4 million parameters whose features match images."""
