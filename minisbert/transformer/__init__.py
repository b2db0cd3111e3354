"""The papers' maths: positions, attention, the block, dropout."""
