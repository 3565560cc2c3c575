"""Programs compiled by XLA: recorded operation by operation, translated to JAX. Needs jax."""
