"""Data loading; the only package that imports TensorFlow, lazily."""
