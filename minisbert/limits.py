"""Caps on what a file may ask for, in one place: a size that no honest model has is refused before memory is taken."""

HEADER_BYTES = 100_000_000  # a safetensors header (the reference reader's own cap)
TENSORS = 100_000  # tensors in one checkpoint
LAYERS = 1_000  # transformer blocks
WIDTH = 65_536  # hidden width, feed-forward width, heads, positions of any published encoder stay far below
TOKENS = 10_000_000  # tokens of one text, where the model sets no limit
SPREAD = 1_000_000_000  # numbers of a table whose rows are shared, once each token has its own; the file is far smaller
JSON_BYTES = 50_000_000  # any single JSON file of a model folder (a large multilingual tokenizer.json is about 17 MB)
