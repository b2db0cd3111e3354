"""Inference: token batches through the compiled model, embeddings back in the order of the texts."""
