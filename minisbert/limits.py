"""Caps on what a file may ask for, in one place: a size that no honest model has is refused before memory is taken."""

HEADER_BYTES = 100_000_000  # a safetensors header (the reference reader's own cap)
TENSORS = 100_000  # tensors in one checkpoint
LAYERS = 1_000  # transformer blocks
WIDTH = 65_536  # hidden width, feed-forward width, heads, positions of any published encoder stay far below
JSON_BYTES = 50_000_000  # any single JSON file of a model folder (a large multilingual tokenizer.json is about 17 MB)
NAME_BYTES = 255  # a path that a model folder's file names; file systems allow no longer name
PIECE_LENGTH = 4_096  # characters of one piece of a vocabulary (some tokenizers crash over very long ones)
