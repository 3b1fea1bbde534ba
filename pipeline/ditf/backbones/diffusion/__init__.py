"""The base of all families of diffusion models: settings, latents, noise, the denoiser and its memory."""
