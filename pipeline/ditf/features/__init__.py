"""Features: extraction, the Zarr store, descriptors, encoded prompts and fusions."""
