"""`minisbert tune`: measure the fastest number of tokens per batch on this machine, and save it."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import ComputeDtype, Model, N, Offline, OptionalFile


def tune(
    model: Positional[Model],
    *,
    texts: OptionalFile = None,
    budgets: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = (),
    rounds: N = 5,
    compute_dtype: ComputeDtype = "float32",
    keep: bool = True,
    offline: Offline = False,
) -> int:
    """Measure the fastest number of tokens per batch on this machine, and save it.

    The commands then use this token budget for models of this size; in Python, pass `token_budget="tuned"`.

    Example: minisbert tune all-MiniLM-L6-v2 --budgets 512 1024 --rounds 1 --no-keep

    Args:
        texts: a file of sentences like those to embed (.txt, or .jsonl, .tsv, .parquet with a "text" column); by default
            short sentences are generated.
        budgets: tokens per batch to try; by default 256 to 4096 on a CPU, 4096 to 131072 on an accelerator.
        rounds: measurements per budget.
        keep: save the best budget in the cache folder.
    """
    from statistics import median

    from minisbert.commands.tables import columns
    from minisbert.data.columns import read_sentences
    from minisbert.data.synthetic import make_sentences
    from minisbert.download.locate import locate
    from minisbert.inference import token_budgets as tuning
    from minisbert.pretrained import load_pretrained
    from minisbert.sentence_encoder import SentenceEncoder

    sentences = make_sentences(2000) if texts is None else read_sentences(texts).texts
    pretrained = load_pretrained(Path(locate(model, offline=offline)))
    encoders = {
        budget: SentenceEncoder(pretrained, compute_dtype=compute_dtype, token_budget=budget)
        for budget in budgets or tuning.budgets_to_try()
    }
    rates = tuning.token_rates(
        encoders,
        sentences,
        rounds=rounds,
        log=lambda line: print(f"minisbert tune: {line}", file=sys.stderr, flush=True),
    )
    best = tuning.best_budget(rates)
    rows = [["", "tokens per batch", "tokens per s", "min .. max"]]
    for budget, each in rates.items():
        middle = median(each)
        rows.append(
            ["*" if budget == best else "", str(budget), f"{middle:.0f}", f"{min(each):.0f} .. {max(each):.0f}"]
        )
    measured_for = tuning.machine_and_model(pretrained.model_config, compute_dtype)
    print(f"{measured_for}; medians of {rounds} rounds", *columns(rows), sep="\n")
    if keep:
        tuning.cache_token_budget(measured_for, best)
        print(f"saved {best} in {tuning.budgets_file()}")
    return 0
