"""The sampler: which examples are in which batch, as a pure function of (seed, step), so that training resumes exactly.

    batches = Batches([open_examples("nli.tsv.gz")], batch_size=64, seed=1)
    batches.batch_at(1_000_000)              # random access: earlier steps are neither computed nor stored

Order. Each epoch contains every row of a data set once, in an order drawn from (seed, data set, epoch); rows that do not fill
the last batch are dropped in that epoch. A batch contains rows of one data set only, since data sets may need different
losses. Several data sets are mixed:

    proportional   an epoch has every batch of every data set once, in an order drawn from (seed, epoch)
    round robin    one batch of each in turn; each data set has its own epochs

Hosts. `batch_size` is that of the global batch; with H hosts, host h reads the h-th of H equal parts of it.

No duplicates. A text in two rows of a batch is a false negative for in-batch losses (sentence-transformers' NO_DUPLICATES
sampler). Each row in turn goes into the first batch that has room and comes after every batch with one of its texts. Texts are
compared by their 32-bit hashes; a collision only separates two rows unnecessarily.

The order is that of random keys from Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): NumPy
guarantees the same raw numbers in all versions, unlike for `Generator.permutation`. grain's `index_shuffle` needs no memory,
but with 65,537 or 262,145 rows it returns one twice and one never (grain 0.2.18).
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from minisbert.arguments import check_choice
from minisbert.data.examples import Examples
from minisbert.data.values import text_hashes
from minisbert.errors import DataError, InputError

MIXINGS = ("proportional", "round_robin")


class Batch(NamedTuple):
    """This host's part of a batch: B examples of one data set with S texts each."""

    dataset: int  # the index of the data set
    epoch: int  # of that data set, from 0
    rows_B: np.ndarray  # int64, row numbers; (dataset, row) identifies an example
    texts: list[list[str]]  # S columns of B texts
    labels: np.ndarray | None  # see Examples.take


class Batches:
    """The batches of a training run.

    Args:
        batch_size: examples per step, over all hosts.
        seed: seeds the order.
        mixing: "proportional" or "round_robin".
        no_duplicates: put rows that share a text into different batches.
        host, hosts: the index of this host, and how many there are.

    Raises:
        InputError: an option is out of range, or `hosts` does not divide the batch.
        DataError: a data set is smaller than one batch.

    Example:
        >>> import pathlib, tempfile
        >>> from minisbert.data.examples import open_examples
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "pairs.tsv")
        ...     _ = file.write_text("anchor\\tpositive\\n" + "".join(f"a{i}\\tp{i}\\n" for i in range(7)))
        ...     batches = Batches([open_examples(str(file))], batch_size=2, seed=1)
        ...     batches.steps(epochs=2), sorted(row for i in range(3) for row in batches.batch_at(i).rows_B.tolist())
        (6, [0, 1, 2, 4, 5, 6])
    """

    def __init__(
        self,
        datasets: Sequence[Examples],
        batch_size: int,
        *,
        seed: int = 0,
        mixing: Literal["proportional", "round_robin"] = "proportional",
        no_duplicates: bool = False,
        host: int = 0,
        hosts: int = 1,
    ):
        if not datasets:
            raise InputError("datasets is empty. Expected at least one data set to train on.")
        if batch_size < 1 or hosts < 1 or batch_size % hosts or not 0 <= host < hosts:
            raise InputError(
                f"batch_size is {batch_size}, host {host} of {hosts}. Expected a batch size divisible by the number of "
                "hosts, and a host counted from 0."
            )
        if seed < 0:
            raise InputError(f"seed is {seed}. Expected a whole number of at least 0.")
        check_choice("mixing", mixing, MIXINGS)
        self.datasets, self.batch_size, self.seed, self.mixing = tuple(datasets), batch_size, seed, mixing
        part = batch_size // hosts
        self._mine = slice(host * part, (host + 1) * part)
        self._orders = [_Order(data, batch_size, (seed, i), no_duplicates) for i, data in enumerate(datasets)]
        self._mixed = _Epochs(lambda epoch: sum(order.length(epoch) for order in self._orders))
        # The order of the batches in an epoch; the last epoch used is cached.
        self._slots = lru_cache(maxsize=1)(
            lambda epoch: shuffled(self._mixed.length(epoch), (seed, len(datasets), epoch))
        )

    def steps(self, epochs: int = 1) -> int:
        """The number of steps in the first epochs; with "round_robin" an epoch ends with that of the smallest data set.

        With `no_duplicates` each epoch has to be assembled to count them (about 4 s for a million rows).
        """
        if self.mixing == "proportional":
            return self._mixed.start(epochs)
        return len(self._orders) * min(order.epochs.start(epochs) for order in self._orders)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, counted from 0.

        Raises InputError: a negative step; DataError: the file has changed since it was opened.
        """
        if step < 0:
            raise InputError(f"step is {step}. Expected a whole number of at least 0.")
        if self.mixing == "round_robin":
            turn, dataset = divmod(step, len(self._orders))
            epoch, number = self._orders[dataset].epochs.find(turn)
        else:  # the slots number the batches of the first data set, then those of the next
            epoch, slot = self._mixed.find(step)
            dataset, number = 0, int(self._slots(epoch)[slot])
            while number >= (length := self._orders[dataset].length(epoch)):
                dataset, number = dataset + 1, number - length
        rows_B = self._orders[dataset].batches(epoch)[number][self._mine]
        return Batch(dataset, epoch, rows_B, *self.datasets[dataset].take(rows_B.tolist()))


class GivenBatches:
    """The batches of a sampler from outside: `Batches` with another choice of rows.

    Args:
        sampler: a function of the step, or an object with such a method `batch_at`. It must be a pure function, so that a run
            resumes with the same batches. It returns the row numbers of a batch in the first data set; (index of the data
            set, row numbers); or a whole `Batch`, whose texts may be in no data set, such as negatives just mined.
        batch_size, host, hosts: as for `Batches`; every batch has `batch_size` examples.

    Example:
        >>> from minisbert.data.examples import open_examples
        >>> data = open_examples([("a", "b"), ("c", "d"), ("e", "f")])
        >>> GivenBatches([data], lambda step: [step % 3, 2], batch_size=2).batch_at(4).texts
        [['c', 'e'], ['d', 'f']]
    """

    def __init__(self, datasets: Sequence[Examples], sampler: Any, batch_size: int, *, host: int = 0, hosts: int = 1):
        self.datasets, self._batch_at = tuple(datasets), getattr(sampler, "batch_at", sampler)
        self._batch_size, part = batch_size, batch_size // hosts
        self._mine = slice(host * part, (host + 1) * part)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step. Raises InputError: the sampler gave something else than `batch_size` rows of a data set."""
        given = self._batch_at(step)
        if isinstance(given, Batch):
            texts = [column[self._mine] for column in given.texts]
            rows_B, labels = np.asarray(given.rows_B), None if given.labels is None else np.asarray(given.labels)
            lengths = [len(rows_B), *map(len, given.texts), *([] if labels is None else [len(labels)])]
            strange = [] if labels is None or labels.dtype.kind in "biuf" else labels.tolist()
            if {*lengths} != {self._batch_size} or strange or given.dataset not in range(len(self.datasets)):
                rows, *columns = lengths
                found = f"{rows} rows with texts{' and labels' * (labels is not None)} of {columns}"
                found += f", labels {strange!s:.80} instead of numbers" if strange else ""
                raise self._wrong(step, f"a Batch of data set {given.dataset}, {found}")
            labels = None if labels is None else labels[self._mine]
            return given._replace(rows_B=rows_B[self._mine], texts=texts, labels=labels)
        dataset, rows = given if isinstance(given, tuple) and len(given) == 2 and np.ndim(given[1]) == 1 else (0, given)
        rows_B = np.asarray(rows)
        if (
            rows_B.shape != (self._batch_size,)
            or rows_B.dtype.kind not in "iu"
            or dataset not in range(len(self.datasets))
        ):
            raise self._wrong(step, f"data set {dataset}, rows {rows_B.tolist()!s:.80}")
        if not 0 <= rows_B.min() <= rows_B.max() < len(self.datasets[dataset]):
            raise self._wrong(step, f"rows from {rows_B.min()} to {rows_B.max()}")
        rows_B = rows_B[self._mine]
        return Batch(dataset, 0, rows_B, *self.datasets[dataset].take(rows_B.tolist()))

    def _wrong(self, step: int, found: str) -> InputError:
        sizes = ", ".join(str(len(data)) for data in self.datasets)
        return InputError(
            f"batches gave {found} for step {step}. Expected {self._batch_size} row numbers, (data set, row numbers) or a "
            f"Batch; the data sets have {sizes} rows."
        )


def shuffled(count: int, seed: tuple[int, ...]) -> np.ndarray:
    """A permutation of 0 ... count - 1 drawn from the seed, int64.

    Example:
        >>> shuffled(6, (1, 0)).tolist(), shuffled(6, (1, 1)).tolist()
        ([2, 0, 1, 4, 5, 3], [1, 3, 5, 0, 2, 4])
    """
    keys = np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(keys, kind="stable")


def without_duplicates(order: np.ndarray, texts_NS: np.ndarray, batch_size: int) -> np.ndarray:
    """Batches in which no text is in two rows, filled in one pass over an order.

    Args:
        order: the rows, in the order in which they are placed.
        texts_NS: a hash for each text of each row.

    Returns:
        int64 `[batches, batch_size]`, full batches only.

    Example:
        >>> without_duplicates(np.arange(4), np.array([[7, 1], [7, 2], [3, 4], [5, 6]]), 2)
        array([[0, 2],
               [1, 3]])
    """
    distinct, texts_NS = np.unique(texts_NS, return_inverse=True)
    texts_NS = texts_NS.reshape(len(order), -1)
    earliest = array("q", bytes(8 * len(distinct)))  # per text: the first batch after those that contain it
    most = len(order) // batch_size
    batches, filled, first = np.zeros((most, batch_size), np.int64), array("q", bytes(8 * most)), 0
    for start in range(0, len(order), 65_536):  # Python integers take 32 bytes each, so convert few at a time
        part = order[start : start + 65_536]
        for row, texts in zip(part.tolist(), texts_NS[part].tolist(), strict=True):
            place = max(first, *(earliest[text] for text in texts))
            while place < most and filled[place] == batch_size:
                place += 1
            if place == most:  # no room after its duplicates: left out of this epoch
                continue
            batches[place, filled[place]] = row
            filled[place] += 1
            for text in texts:
                earliest[text] = place + 1
            while first < most and filled[first] == batch_size:
                first += 1
    full = np.array(filled, np.int64) == batch_size
    return np.asarray(batches[full])


class _Epochs:
    """The start of each epoch, for epochs of different lengths; computed as far as needed."""

    def __init__(self, length: Callable[[int], int]):
        self._starts, self.length = [0], length

    def start(self, epoch: int) -> int:
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + self.length(len(self._starts) - 1))
        return self._starts[epoch]

    def find(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and the step's number in it."""
        while self._starts[-1] <= step:
            self.start(len(self._starts))
        epoch = bisect_right(self._starts, step) - 1
        return epoch, step - self._starts[epoch]


class _Order:
    """The order of one data set: (epoch, batch number) -> rows."""

    def __init__(self, examples: Examples, batch_size: int, seed: tuple[int, int], no_duplicates: bool):
        self._count, self._batch_size, self._seed = examples.dataset.rows, batch_size, seed
        self._texts_NS = _hashes(examples) if no_duplicates else None
        self.batches = lru_cache(maxsize=1)(self._draw)  # the last epoch used is cached
        self.epochs = _Epochs(self.length)
        if self.length(0) == 0:
            why = " without duplicate texts" if no_duplicates and self._count >= batch_size else ""
            raise DataError(
                f"{examples.dataset.source}: {self._count} rows do not fill a batch of {batch_size}{why}. Expected at least "
                "one batch per epoch; use a smaller batch_size or more data."
            )

    def length(self, epoch: int) -> int:
        """The batches of an epoch."""
        return self._count // self._batch_size if self._texts_NS is None else len(self.batches(epoch))

    def _draw(self, epoch: int) -> np.ndarray:
        order = shuffled(self._count, (*self._seed, epoch))
        if self._texts_NS is not None:
            return without_duplicates(order, self._texts_NS, self._batch_size)
        full = self._count // self._batch_size
        return order[: full * self._batch_size].reshape(full, self._batch_size)


def _hashes(examples: Examples) -> np.ndarray:
    hashes_NS = np.empty((len(examples), len(examples.dataset.texts)), np.uint32)
    for numbers, texts, _ in examples.parts():
        # A document that a row lacks is "": rows that lack some do not share a text.
        filled = [[text or first for text, first in zip(column, texts[0], strict=True)] for column in texts]
        hashes_NS[numbers] = np.stack(list(map(text_hashes, filled)), axis=1)
    return hashes_NS
