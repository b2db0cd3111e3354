"""Training and evaluation data: rows of files, examples, and which examples form which batch."""
