"""Many processes: ranks, their sequences and their gradients."""
