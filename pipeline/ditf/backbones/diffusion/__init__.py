"""What all families of diffusion models share: settings, latents, noise, the denoiser and its memory."""
