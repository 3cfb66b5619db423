"""Reading images: the only package that ever imports TensorFlow, lazily."""
