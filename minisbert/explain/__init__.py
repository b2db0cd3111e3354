"""Explain: which token pairs a similarity comes from, and what each attention head attends to."""
