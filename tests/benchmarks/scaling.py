"""The cost per sentence in a corpus of 10,000, of 100,000 and of 1,000,000: neither time nor memory may grow with it.

    python tests/benchmarks/scaling.py [--largest 1000000] [--model weights/tiny-bert]

One process, warmed up, so that starting it is not counted; one size after the other, the smallest ten times (its median).
"""

import argparse
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minisbert import SentenceEncoder
from minisbert.corpus.stream import encode_stream

WORDS = "the a cat dog house river tree stone book train cloud horse lamp road sees makes finds loses old new".split()


def sentences(count: int) -> Iterator[str]:
    """Of 4 to 20 words, the same each time; never all in memory."""
    rng = random.Random(0)
    for _ in range(count):
        yield " ".join(rng.choices(WORDS, k=rng.randint(4, 20)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--model", default=str(Path(__file__).parents[2] / "weights" / "tiny-bert"))
    options = parser.parse_args()
    encoder = SentenceEncoder.load(options.model)
    encoder.warm_up()
    for _ in encode_stream(encoder, sentences(min(10_000, options.largest)), on_truncate="ignore"):
        pass
    medians = []
    for size in (options.largest // 100, options.largest // 10, options.largest):
        microseconds = []
        for _ in range(max(1, options.largest // 10 // size)):
            started = time.perf_counter()
            for _ in encode_stream(encoder, sentences(size), on_truncate="ignore"):
                pass
            microseconds.append(1e6 * (time.perf_counter() - started) / size)
        medians.append(float(np.median(microseconds)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{size} sentences: {medians[-1]:.1f} us each, peak so far {peak} MiB", flush=True)
    print(f"most to least {max(medians) / min(medians):.3f}")


if __name__ == "__main__":
    main()
