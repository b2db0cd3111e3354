"""How a folder stores each family: its settings (Config), and where its tensors go (RULES). NumPy and files only."""
