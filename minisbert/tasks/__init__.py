"""Tasks: what sentence embeddings are for, and how well they do it."""
