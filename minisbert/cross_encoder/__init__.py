"""The cross-encoder: two texts in one row of tokens, one score per pair. All of it is in this folder."""
