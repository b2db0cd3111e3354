"""The state of a run on disk, written by orbax: each checkpoint appears whole or not at all, and the newest is restored.

A checkpoint is the `TrainState` (parameters, optimizer, step, dropout key) and a record of the settings, the data and the
model. The position in the data is the step, because a batch is a pure function of it. A run whose record differs from the
checkpoint's is refused, naming each difference.
"""

import itertools
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from minisbert.errors import TrainingError
from minisbert.training.config import current_settings
from minisbert.training.siamese import TrainState


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run; checkpoints are in its subfolder `checkpoints/`.
        record: settings, data and model of the run, JSON values only.
        keep: how many of the newest checkpoints to keep.
    """

    def __init__(self, folder: Path, record: dict[str, Any], *, keep: int = 2):
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs each part of its work
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = Path(folder).absolute() / "checkpoints"
        self.record = record
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
        items = {"state": self._ocp.args.StandardSave(leaves), "record": self._ocp.args.JsonSave(self.record)}
        try:
            self.manager.save(step, args=self._ocp.args.Composite(**items))
            self.manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            size = sum(leaf.nbytes for leaf in leaves.values())
            hosts = "" if jax.process_count() == 1 else ", check that every host is still there,"
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {step} ({size} bytes) could not be written: {error}. The checkpoint "
                f"of step {self.latest()} is unchanged. Free some space{hosts} and start the same command again."
            ) from None

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, with the shapes and placement of `like`.

        Raises:
            TrainingError: the checkpoint is damaged, or belongs to a run with other settings, data or model.
        """
        saved = self._read("record", self._ocp.args.JsonRestore())
        if not isinstance(saved, dict):
            raise self._damaged("its record is not an object")
        if isinstance(saved.get("config"), dict):
            saved["config"] = current_settings(saved["config"])
        differences = [
            f"{key} was {saved.get(key)!r}, is {self.record.get(key)!r}"
            for key in sorted(saved.keys() | self.record.keys())
            if saved.get(key) != self.record.get(key)
        ]
        if differences:
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {self.latest()} is of another run: {'; '.join(differences)}. Start "
                "again with the same settings and data, or choose another output folder."
            )
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in _as_leaves(like).items()
        }
        return _from_leaves(self._read("state", self._ocp.args.StandardRestore(abstract)), like)

    def _read(self, item: str, arguments: Any) -> Any:
        try:
            return self.manager.restore(self.latest(), args=self._ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # orbax, tensorstore and their codecs have no class in common
            raise self._damaged(f"{item}: {type(error).__name__}: {error!s:.300}") from None

    def _damaged(self, why: str) -> TrainingError:
        return TrainingError(
            f"{self.folder / str(self.latest())}: the checkpoint cannot be read ({why}). Expected a complete checkpoint; "
            "remove this folder to resume from the one before, or start again in another run folder."
        )

    def close(self) -> None:
        """Release the folder."""
        self.manager.close()


def _as_leaves(state: TrainState) -> dict[str, Any]:
    # Numbered leaves, so that a file depends on no type of the optimizer's or the module's.
    plain = state._replace(key=jax.random.key_data(state.key))
    return dict(zip(map("{:05d}".format, itertools.count()), jax.tree.leaves(plain), strict=False))


def _from_leaves(leaves: dict[str, Any], like: TrainState) -> TrainState:
    plain = like._replace(key=jax.random.key_data(like.key))
    state: TrainState = jax.tree.unflatten(jax.tree.structure(plain), [leaves[name] for name in sorted(leaves)])
    return state._replace(key=jax.random.wrap_key_data(jnp.asarray(state.key)))
