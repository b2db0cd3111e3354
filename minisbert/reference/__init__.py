"""The NumPy twin: encoders, poolings and similarities in plain float64, to read next to the JAX code."""
