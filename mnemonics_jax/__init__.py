"""Class-incremental learning with learned exemplars, in JAX and Flax."""

__version__ = '0.1.0'
