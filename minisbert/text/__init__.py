"""Text to arrays: the tokenizer, which counts what it truncates, and packing."""
