"""Evaluation: how well embeddings and scores agree with human judgements."""
