"""Trajectories of vector fields."""
