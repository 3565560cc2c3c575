"""Langevin steps of several dynamics, and chains of them."""
