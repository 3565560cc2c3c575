"""Kernels of Pyro's MCMC, many chains at once, and NumPyro."""
