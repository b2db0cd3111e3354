"""Embedding very long texts: the processor time and memory of a fresh process, and whether the ids are those of the uncut text.

    python tests/endurance/long_texts.py                 50 MB of words, and 20 texts of 5 MB
    python tests/endurance/long_texts.py --whole 5       compares with the library reading 5 MB whole (150 bytes per character)

Exit code 1 where a text takes more than 5 s of processor time or 400 MB, beyond what a short text takes.
"""

import argparse
import random
import resource
import time
from pathlib import Path

from minisbert import SentenceEncoder

MODEL = Path(__file__).parents[2] / "weights" / "tiny-bert"
SECONDS, MEMORY = 5, 400_000_000


def words(megabytes: float, seed: int = 0) -> str:
    """Words of a few alphabets, with punctuation."""
    generator = random.Random(seed)
    some = ["the", "a", "man", "plays", "guitar,", "É", "naïve", "中文", "12,5%", "don't", "x" * 40, "over."]
    paragraph = " ".join(generator.choice(some) for _ in range(20_000)) + "\n"
    return paragraph * int(megabytes * 1_000_000 / len(paragraph.encode()) + 1)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--whole", type=float, metavar="MB", help="compare the ids with those of the text read whole")
    options = parser.parse_args()
    encoder = SentenceEncoder.load(options.model)
    if options.whole:
        text, tokenizer = words(options.whole), encoder.tokenizer
        room = encoder.max_seq_length - tokenizer.special_tokens
        all_ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
        for exact in (True, False):
            ((ids, length),) = tokenizer.contents([text], room=room, exact=exact)
            assert ids == tokenizer.cut(all_ids, room), "other ids"
            assert length == len(all_ids) if exact else length > room, "another count"
        print(f"{len(text)} characters, {len(all_ids)} tokens: the same ids and count")
        return 0
    failed = 0
    texts = {"1 text of 50 MB": [words(50)], "20 texts of 5 MB": [words(5, seed) for seed in range(20)]}
    encoder.encode(["word " * 600], on_truncate="ignore")  # compiles the longest shape
    for name, some in texts.items():
        before, started = peak(), time.process_time()
        encoder.encode(some, on_truncate="ignore")
        seconds, memory = time.process_time() - started, peak() - before
        failed += seconds > SECONDS or memory > MEMORY
        print(f"encode, {name:<18}{seconds:8.2f} s of processor time{memory / 1e6:8.0f} MB")
    before, started = peak(), time.process_time()
    (count,) = encoder.token_counts(words(5))
    memory = peak() - before
    failed += memory > MEMORY
    seconds = time.process_time() - started
    print(f"count the {count.tokens} tokens of 5 MB{seconds:6.2f} s of processor time{memory / 1e6:8.0f} MB")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
