"""Run by test_invariance.py with eight virtual devices: embeddings, scores and shapes on all of them, as JSON."""

import json
import sys
from pathlib import Path

import jax

from minisbert import CrossEncoder, SentenceEncoder


def main() -> None:
    weights, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
    encoder = SentenceEncoder.load(weights / "tiny-bert")
    scorer = CrossEncoder.from_encoder(encoder, 1, seed=0)
    found = {
        "devices": jax.local_device_count(),
        "embeddings": encoder.encode(texts).tolist(),
        "batches of three": encoder.encode(texts, batch_size=3).tolist(),
        "scores": scorer.predict([(text, texts[0]) for text in texts]).tolist(),
        "rows": sorted({shape.rows for shape in encoder.compilations}),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
