"""Corpora larger than memory: shards, streams, Ray."""
