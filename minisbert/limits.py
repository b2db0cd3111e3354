"""The largest sizes that a file may claim: larger ones are refused before memory is allocated."""

HEADER_BYTES = 100_000_000  # a safetensors header (the limit of the safetensors library)
TENSORS = 100_000  # tensors in one checkpoint
LAYERS = 1_000  # transformer blocks; modules of a chain
WIDTH = 65_536  # hidden width, feed-forward width, heads; published encoders have far less
ROWS = 10_000_000  # rows of an embedding table: vocabulary, positions; also any limit on the length of a text
SEGMENTS = 1_000  # token types
LABELS = 100_000  # labels of a cross-encoder
JSON_BYTES = 50_000_000  # any single JSON or vocabulary file (a large multilingual tokenizer.json is about 17 MB)
TEXT_GROWTH = 100  # the factor by which a tokenizer may lengthen a text before splitting it (NFKC alone: 18)
TOKENS = ROWS  # tokens of one text if the model sets no limit
NAME_BYTES = 255  # the name of a file or folder; file systems allow no more
PIECE_LENGTH = 4_096  # characters of one piece of a vocabulary (some tokenizers crash on very long ones)
SPREAD = 1_000_000_000  # values of a table with shared rows after each token gets its own row; the file is far smaller
