"""Which token budget is fastest here: the same sentences embedded with each, in turns.

rates = token_rates(pretrained, sentences, (512, 1024, 2048))      # budget -> tokens a second, round by round
best_budget(rates)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import jax

from minisbert.arguments import check_list, check_positive
from minisbert.errors import InputError
from minisbert.pretrained import Pretrained
from minisbert.sentence_encoder import SentenceEncoder

# What is tried where nothing is asked for.
ON_CPU = (256, 512, 1024, 2048, 4096)
ON_ACCELERATOR = (4096, 8192, 16_384, 32_768, 65_536, 131_072)
# A smaller budget needs less memory: it is taken where it is as fast but for so much.
AS_FAST = 0.98


def budgets_to_try() -> tuple[int, ...]:
    """Of the kind of device that JAX finds here."""
    return ON_CPU if jax.default_backend() == "cpu" else ON_ACCELERATOR


def token_rates(
    pretrained: Pretrained,
    sentences: Sequence[str],
    budgets: Sequence[int],
    *,
    rounds: int = 3,
    compute_dtype: str = "float32",
    said: Callable[[str], None] = lambda line: None,
) -> dict[int, list[float]]:
    """Tokens a second with each budget, round by round; each has compiled its shapes before.

    Args:
        pretrained: the model.
        sentences: several thousand tokens of text, of the lengths that will be embedded.
        budgets: tokens a batch.
        rounds: how often each has its turn.
        compute_dtype: see SentenceEncoder.
        said: told what is being done.

    Raises:
        InputError: no sentences, or a number that is none.
    """
    texts = check_list("sentences", sentences)
    check_positive("rounds", rounds)
    if not texts or not budgets:
        raise InputError(
            f"there are {len(texts)} sentences and {len(budgets)} budgets. Expected some of each to measure."
        )
    encoders = {
        budget: SentenceEncoder.from_model(pretrained, compute_dtype=compute_dtype, token_budget=budget)
        for budget in budgets
    }
    tokens = sum(count.kept for count in next(iter(encoders.values())).token_counts(texts))
    for budget, encoder in encoders.items():
        said(f"compiling for {budget} tokens a batch")
        encoder.encode(texts, on_truncate="ignore")
    rates: dict[int, list[float]] = {budget: [] for budget in encoders}
    for number in range(rounds):
        said(f"round {number + 1} of {rounds}")
        for budget, encoder in encoders.items():
            started = time.perf_counter()
            encoder.encode(texts, on_truncate="ignore")
            rates[budget].append(tokens / (time.perf_counter() - started))
    return rates


def best_budget(rates: Mapping[int, Sequence[float]]) -> int:
    """The smallest that is as fast as the fastest, but for what noise makes.

    Example:
        >>> best_budget({512: [90, 91, 95], 1024: [99, 120, 101], 2048: [100, 102, 101]})
        1024
    """
    medians = {budget: median(each) for budget, each in rates.items()}
    return min(budget for budget, rate in medians.items() if rate >= AS_FAST * max(medians.values()))
