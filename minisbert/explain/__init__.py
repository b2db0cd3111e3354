"""Explain a model: the token pairs a similarity comes from, and the attention maps of every layer and head."""
