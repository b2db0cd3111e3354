"""Model files: names, downloads, folders, tensors, conversion. NumPy and files only; nothing here touches a device."""
