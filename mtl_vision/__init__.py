"""Dense multi-task vision in JAX."""
