"""RLDS data sets as TensorFlow Datasets writes them, read without TensorFlow."""
