"""Diffusion of a value into noise, and back in few steps: samplers, and the chain's density."""
