"""Fuzz minisbert's readers of files with spoiled ones.

    python tests/fuzz/run_fuzzing.py                                     2,000 files a target, as on every change
    python tests/fuzz/run_fuzzing.py --count 100000                      the nightly run
    python tests/fuzz/run_fuzzing.py --target safetensors --seed 7

A file that goes wrong is kept in tests/fuzz/seeds/TARGET/, which every later run and the tests read again. Exit code 1
where anything went wrong.
"""

import argparse
import os
import sys
import time

from fuzz_targets import TARGETS
from fuzzing import apart, keep


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="files a target")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # The tokenizers library writes to stderr when it panics; what is looked at here is what becomes of that.
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    failed = 0
    started = time.perf_counter()
    print(f"{'target':<12}{'files':>8}{'refused':>9}{'taken':>8}{'slowest':>10}{'memory':>9}{'wrong':>7}")
    for name in options.target or TARGETS:
        report = apart(name, options.count, options.seed)
        failed += len(report.failures)
        print(
            f"{name:<12}{options.count:>8}{report.refused:>9}{report.taken:>8}{report.slowest:>8.2f} s"
            f"{report.most_memory / 1e6:>6.0f} MB{len(report.failures):>7}",
            flush=True,
        )
        for kind, (words, content) in report.failures.items():
            print(f"  {kind}: {words!r}\n  kept as {keep(name, content)}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s; {failed} kinds of failure")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
