"""Guides: ways to get the latents of given data, trained by SVI."""
