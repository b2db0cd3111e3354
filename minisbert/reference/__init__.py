"""The NumPy twin: encoders, poolings and similarities in plain float64, written from the papers to be read beside JAX."""
