"""Programs recorded operation by operation, for what compiles them."""
