"""Text to arrays: the tokenizer with its truncation ledger, and batches."""
