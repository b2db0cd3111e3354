"""The state of a run on disk, written by orbax: each checkpoint appears whole or not at all, and the newest is restored.

A checkpoint is the `TrainState` and a record of the settings, the data, the model and the checksums of the state. The position
in the data is the step, because a batch is a pure function of it. A run whose record differs is refused, naming each
difference. A damaged checkpoint is named and removed, and the one before it is restored.
"""

import errno
import logging
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.atomic_write import free_bytes, not_written
from minisbert.checksums import CHECKSUM, is_whole, sealed
from minisbert.errors import TrainingError
from minisbert.training.config import current_settings
from minisbert.training.siamese import TrainState

logger = logging.getLogger("minisbert")
LOCK = ".run.lock"


class _DamagedError(Exception):
    """Why a checkpoint cannot be used."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run; checkpoints are in its subfolder `checkpoints/`.
        record: settings, data and model of the run, JSON values only.
        keep: how many of the newest checkpoints to keep.
    """

    def __init__(self, folder: Path, record: dict[str, Any], *, keep: int = 2):
        # Orbax logs each part of its work, and pages about an error that it raises too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        import orbax.checkpoint as ocp

        self._ocp, self.record, self.folder = ocp, record, Path(folder).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        if self.folder.exists() and not self.folder.is_dir():  # orbax would wait for it
            raise TrainingError(f"{self.folder}: is a file. Expected a folder of checkpoints; remove the file.")
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        step: int | None = self.manager.latest_step()
        return step

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of this state.

        Raises:
            TrainingError: it could not be written, on a full disk for example. Earlier checkpoints are unchanged.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        leaves = _as_leaves(state)
        record = sealed({**self.record, "checksums": _checksums(leaves)})
        items = {"state": self._ocp.args.StandardSave(leaves), "record": self._ocp.args.JsonSave(record)}
        size, free = sum(map(attrgetter("nbytes"), leaves.values())), free_bytes(self.folder)
        try:
            if size > free and jax.process_count() == 1:  # orbax would start, and its threads print their tracebacks
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {free} bytes are free")
            self.manager.save(step, args=self._ocp.args.Composite(**items))
            self.manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            hosts = "" if jax.process_count() == 1 else ", check that every host is still there,"
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {step} ({size} bytes) could not be written: {_first_line(error)}. The "
                f"checkpoint of step {self.latest()} is unchanged. Free some space{hosts} and start the same command again."
            ) from None

    def restore(self, like: TrainState) -> TrainState:
        """The newest undamaged checkpoint, with the shapes and placement of `like`; damaged ones after it are removed.

        Raises:
            TrainingError: all are damaged, or one belongs to a run with other settings, data or model.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                state = self._restore(step, like)
            except _DamagedError as error:
                damaged[step] = str(error)
                continue
            for other, why in damaged.items():
                logger.warning(
                    f"{self.folder / str(other)}: the checkpoint is damaged ({why}) and was removed. The run resumes from "
                    f"the checkpoint of step {step}; the steps after it are repeated."
                )
                self.manager.delete(other)
            return state
        listed = "; ".join(f"{self.folder / str(step)}: {why}" for step, why in damaged.items())
        raise TrainingError(
            f"{self.folder}: every checkpoint is damaged ({listed}). Expected a complete one; start again in another run "
            "folder, or remove this one."
        )

    def _restore(self, step: int, like: TrainState) -> TrainState:
        saved = self._read(step, "record", self._ocp.args.JsonRestore())
        if not isinstance(saved, dict) or not is_whole(saved):
            raise _DamagedError("its record is not the one that was written")
        expected, _ = saved.pop("checksums", None), saved.pop(CHECKSUM, None)  # earlier versions wrote neither
        if isinstance(saved.get("config"), dict):
            saved["config"] = current_settings(saved["config"])
        # Earlier versions recorded the starting weights of LoRA only.
        record = self.record if "weights" in saved else {**self.record, "weights": None}
        differences = [
            "{} was {!r}, is {!r}".format(key, *_narrowed(saved.get(key), record.get(key)))
            for key in sorted(saved.keys() | record.keys())
            if saved.get(key) != record.get(key)
        ]
        if differences:
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {step} is of another run: {'; '.join(differences)}. Start again "
                "with the same model, settings and data, or choose another output folder."
            )
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in _as_leaves(like).items()
        }
        leaves = self._read(step, "state", self._ocp.args.StandardRestore(abstract))
        found = None if expected is None else _checksums(leaves)
        if found is not None and found != expected:
            wrong = sorted(name for name in found if found[name] != expected.get(name))
            raise _DamagedError(f"{len(wrong)} of {len(found)} arrays are not those that were written: {wrong[:3]}")

        def typed(name: str, other: Any) -> Any:
            if not jnp.issubdtype(other.dtype, jax.dtypes.prng_key):
                return leaves[name]
            return jax.random.wrap_key_data(jnp.asarray(leaves[name]), impl=jax.random.key_impl(other))

        others, structure = jax.tree.flatten(like)
        state: TrainState = jax.tree.unflatten(structure, map(typed, sorted(leaves), others))
        return state

    def _read(self, step: int, item: str, arguments: Any) -> Any:
        try:
            return self.manager.restore(step, args=self._ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # orbax, tensorstore and their codecs have no class in common
            raise _DamagedError(f"{item}: {type(error).__name__}: {_first_line(error)}") from None

    def close(self) -> None:
        """Release the folder."""
        self.manager.close()


def _narrowed(saved: Any, given: Any) -> tuple[Any, Any]:
    """Two values of a record, of dicts only the entries that differ."""
    if isinstance(saved, dict) and isinstance(given, dict):
        same = {key for key in saved.keys() & given.keys() if saved[key] == given[key]}
        saved, given = ({key: one[key] for key in one if key not in same} for one in (saved, given))
    elif isinstance(saved, list) and isinstance(given, list) and saved and len(saved) == len(given):
        saved, given = map(list, zip(*map(_narrowed, saved, given), strict=True))  # of each data set
    return saved, given


def _as_leaves(state: TrainState) -> dict[str, Any]:
    # Numbered leaves, so that a file depends on no type of the optimizer's or the module's. An optimizer may have keys too.
    leaves = {}
    for number, leaf in enumerate(jax.tree.leaves(state)):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves[f"{number:05d}"] = jax.random.key_data(leaf) if key else leaf
    return leaves


def _first_line(error: Exception) -> str:
    """What went wrong, without the pages of JSON that tensorstore adds."""
    text = re.split(r" \[\w+='|\n", str(error))[0]
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]}"


def _checksums(leaves: dict[str, Any]) -> dict[str, str]:
    """Leaf -> the sum of its values' bits, each times 2 * position + 1, modulo 2^64.

    A sum is the same for any placement of the values on devices and hosts. One flipped bit changes it by an odd multiple of
    a power of two below 2^64, so it is always noticed.
    """
    sums = np.array([sum(map(int, _shard_sums(leaf))) % 2**64 for leaf in leaves.values()], np.uint64)
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import process_allgather

        halves = np.asarray(process_allgather(sums.view(np.uint32)))  # JAX has no uint64 by default
        sums = np.ascontiguousarray(halves).view(np.uint64).sum(axis=0, dtype=np.uint64)
    return {name: f"{value:016x}" for name, value in zip(leaves, sums.tolist(), strict=True)}


def _shard_sums(leaf: Any) -> Iterator[np.uint64]:
    """The sum of each part of an array that this host has, and that no other host or device counts."""
    shape, whole = leaf.shape or (1,), (slice(None),) * max(leaf.ndim, 1)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        parts = [(shard.index, np.asarray(shard.data)) for shard in leaf.addressable_shards if shard.replica_id == 0]
    else:
        parts = [(whole, np.asarray(leaf))] if jax.process_index() == 0 else []
    for index, values in parts:
        # A position in the whole array, row by row, is the sum of one number per axis.
        axes: list[np.ndarray] = []
        stride = 1
        for size, part in zip(reversed(shape), reversed(index or whole), strict=True):
            axes.insert(0, np.arange(*part.indices(size), dtype=np.uint64) * np.uint64(stride))
            stride *= size
        rows, columns = axes[0], reduce(np.add.outer, axes[1:], np.zeros((), np.uint64)).ravel()
        bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(len(rows), len(columns))
        two, one = np.uint64(2), np.uint64(1)
        yield (bits.sum(axis=1, dtype=np.uint64) * rows * two).sum(dtype=np.uint64)
        yield (bits.sum(axis=0, dtype=np.uint64) * (columns * two + one)).sum(dtype=np.uint64)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder of a run: while one process trains in it, another is refused. A killed process holds nothing.

    Raises:
        TrainingError: another process trains in the folder.
        WriteError: the folder cannot be made or written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise not_written(folder, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise TrainingError(
                f"{folder}: {lock.read(300).strip() or 'another process'} is training in this folder. Wait for it or stop "
                "it, or choose another folder."
            ) from None
        except OSError as error:  # a file system without locks
            logger.warning(f"{folder}: cannot be locked ({error}). Start no second run in it.")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)
