"""One encoder used for long and by many: eight threads, thousands of calls, texts of every length.

python tests/endurance/long_run.py                          a few minutes
python tests/endurance/long_run.py --model all-MiniLM-L6-v2 --calls 100 --texts 500

Prints, and holds: every call of every thread gives the bits of the same call alone; the process's memory is flat; the number
of compiled programs is bounded by the table of shapes. Exit code 1 where one does not hold.
"""

import argparse
import random
import threading
from pathlib import Path

import numpy as np

from minisbert import SentenceEncoder

TINY = Path(__file__).parents[2] / "weights"
# A family of each kind of tokenizer: WordPiece, byte-pair encoding and Unigram have different caches.
MODELS = ("tiny-bert", "tiny-roberta", "tiny-xlm-roberta")
FLAT = 16_000_000  # bytes by which the memory of a flat process may still move
WARM = 0.2  # share of the calls after which caches are full and every shape is compiled


def some_calls(rng: random.Random, number: int, longest: int = 200) -> list[list[str]]:
    """What callers pass: one text or a few, short or long, of words that nobody has seen."""
    return [[text(rng, longest) for _ in range(rng.choice((1, 1, 2, 5, 30)))] for _ in range(number)]


def text(rng: random.Random, longest: int) -> str:
    """Random words, some of signs from anywhere."""
    words = ("".join(rng.choices("abcdefghijklmnopqrstuvwxyzéß中ж ", k=rng.randint(1, 12))) for _ in range(longest))
    return " ".join(word for word, _ in zip(words, range(int(longest ** rng.random())), strict=False))


def threads_agree(encoder: SentenceEncoder, threads: int, calls: int) -> int:
    """How many calls of concurrent threads gave other bits than the call alone; the threads start at the same moment."""
    pool = some_calls(random.Random(0), 40)
    results: list[dict[int, np.ndarray]] = [{} for _ in range(threads)]
    wrong = [0] * threads
    errors: list[BaseException] = []
    start = threading.Barrier(threads)

    def work(thread: int) -> None:
        rng = random.Random(thread)
        start.wait()
        try:
            for _ in range(calls):
                number = rng.randrange(len(pool))
                found = encoder.encode(pool[number], on_truncate="ignore")
                # Compared with each other below; here a thread's own calls.
                former = results[thread].setdefault(number, found)
                wrong[thread] += found.tobytes() != former.tobytes()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    alone = [encoder.encode(texts, on_truncate="ignore") for texts in pool]
    different = sum(found.tobytes() != alone[n].tobytes() for result in results for n, found in result.items())
    return sum(wrong) + different


def memory() -> int:
    """This process's memory in bytes, 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


def growth(encoder: SentenceEncoder, calls: int) -> int:
    """Bytes by which memory grows over so many calls of random text, once caches are full."""
    rng, warm = random.Random(1), 0
    for number in range(calls):
        [texts] = some_calls(rng, 1)
        encoder.encode(texts, on_truncate="ignore")
        if number == int(WARM * calls):
            warm = memory()
    return memory() - warm


def programs(encoder: SentenceEncoder) -> tuple[int, int]:
    """How many programs were compiled, and how many the table of shapes allows."""
    shapes = [(line.rows, line.length, line.output) for line in encoder.compilations]
    assert len(set(shapes)) == len(shapes), "a shape was compiled twice"
    return len(shapes), len(encoder.shapes.all(encoder.pretrained.max_positions))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="a folder or a name; by default three tiny ones")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=1000, help="of each thread")
    parser.add_argument("--texts", type=int, default=5000, help="calls of random text, one after the other")
    options = parser.parse_args()
    failed = False
    for name in options.model or [str(TINY / model) for model in MODELS]:
        encoder = SentenceEncoder.load(name)
        wrong = threads_agree(encoder, options.threads, options.calls)
        print(
            f"{Path(name).name}: {options.threads} threads x {options.calls} calls, {wrong} with other bits", flush=True
        )
        grown = growth(encoder, options.texts)
        print(
            f"  {options.texts} calls of random text: memory {grown / 1e6:+.1f} MB after the first {WARM:.0%}",
            flush=True,
        )
        compiled, allowed = programs(encoder)
        print(f"  {compiled} programs compiled, at most {allowed}", flush=True)
        failed |= wrong > 0 or grown > FLAT or compiled > allowed
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
