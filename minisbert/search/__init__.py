"""Search: nearest neighbours, indexes, BM25, fusion and reranking."""
