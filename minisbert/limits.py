"""Caps on what a file may ask for, in one place: a size that no honest model has is refused before memory is taken."""

HEADER_BYTES = 100_000_000  # a safetensors header (the reference reader's own cap)
TENSORS = 100_000  # tensors in one checkpoint
LAYERS = 1_000  # transformer blocks, and modules of a chain
WIDTH = 65_536  # hidden width, feed-forward width, heads of any published encoder stay far below
ROWS = 10_000_000  # rows of an embedding table: vocabulary, positions; and any limit on a text's length
SEGMENTS = 1_000  # token types
LABELS = 100_000  # labels of a cross-encoder
JSON_BYTES = 50_000_000  # any single JSON or vocabulary file (a large multilingual tokenizer.json is about 17 MB)
TEXT_GROWTH = 100  # how many times as long a tokenizer may make a text before splitting it (NFKC alone: 18)
TOKENS = ROWS  # tokens of one text, where the model sets no limit
NAME_BYTES = 255  # the name of a file or folder, as far as file systems go
PIECE_LENGTH = 4_096  # characters of one piece of a vocabulary (some tokenizers crash over very long ones)
SPREAD = 1_000_000_000  # numbers of a table whose rows are shared, once each token has its own; the file is far smaller
