"""The largest sizes that a file may claim: larger ones are refused before memory is allocated."""

CONFIG_BYTES = 1_000_000  # config.json and other settings (published ones have up to 100 kB)
TOKENS_BYTES = 8_000_000  # tokenizer_config.json and the other files of added tokens (published: up to 1.2 MB)
VOCABULARY_BYTES = 64_000_000  # tokenizer.json, vocab.*, merges.txt (a large multilingual tokenizer.json: 17 to 34 MB)
SENTENCEPIECE_BYTES = 24_000_000  # sentencepiece.bpe.model (published: 5 MB, which takes a second)
HEADER_BYTES = 8_000_000  # a safetensors header or the index of shards; 100 to 160 bytes per tensor
PARSED_BYTES = 64_000_000  # memory of a JSON file's values, in addition to four times the file's size
TENSORS = 20_000  # tensors in one checkpoint (a thousand layers have 16,000)
SHARDS = 1_000  # files of one checkpoint
LAYERS = 1_000  # transformer blocks; modules of a chain
WIDTH = 65_536  # hidden width, feed-forward width, heads; published encoders have far less
ROWS = 10_000_000  # rows of an embedding table: vocabulary, positions; also any limit on the length of a text
SEGMENTS = 1_000  # token types
LABELS = 100_000  # labels of a cross-encoder
TEXT_GROWTH = 100  # the factor by which a tokenizer may lengthen a text before splitting it (NFKC alone: 18)
TOKENS = ROWS  # tokens of one text if the model sets no limit
NAME_BYTES = 255  # the name of a file or folder; file systems allow no more
PIECES = 1_000_000  # of a vocabulary (published: up to 900,000)
RULES = 200  # rules of a tokenizer's normalizer and pre_tokenizer
ADDED_TOKENS = 20_000  # tokens added to a vocabulary (published: up to 6,400)
PIECE_AVERAGE = 32  # characters per piece of a Unigram vocabulary, on average
PIECE_LENGTH = 4_096  # characters of one piece of a vocabulary (some tokenizers crash on very long ones)
SPREAD = 1_000_000_000  # values of a table with shared rows after each token gets its own row; the file is far smaller
