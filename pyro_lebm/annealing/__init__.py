"""Particles along a bridge of densities, and the constants they tell."""
