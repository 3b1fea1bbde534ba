"""Sweeps over timesteps, blocks and ensemble sizes."""
