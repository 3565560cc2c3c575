"""Sequences seen along a trajectory, as one distribution with a fused density."""
