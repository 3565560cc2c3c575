"""A Pyro program as a density over one flat vector per element."""
