"""The maths of the papers: positions, attention, transformer blocks, dropout."""
