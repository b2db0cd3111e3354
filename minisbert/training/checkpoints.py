"""The state of a run on disk, by orbax: written beside, renamed when whole, the newest whole one restored.

A checkpoint is the `TrainState` (parameters, optimizer, step, dropout key) and a record: what the run was told and on
which data. The position in the data is the step, because a batch is a pure function of it. A record that differs from
the run that wants to go on is refused, naming each difference.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from minisbert.errors import TrainingError
from minisbert.training.siamese import TrainState


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        folder: of the run; `checkpoints/` is made in it.
        record: settings and data of the run, JSON values only.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, record: dict[str, Any], *, keep: int = 2):
        # Orbax reports every step of its work; what matters here is raised.
        logging.getLogger("absl").setLevel(logging.ERROR)
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.folder = Path(folder).absolute() / "checkpoints"
        self.record = record
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        if self.folder.exists() and not self.folder.is_dir():  # orbax would wait for it
            raise TrainingError(f"{self.folder}: is a file. Expected a folder of checkpoints; remove the file.")
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self.manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of this state's step; it counts once it is whole.

        Raises:
            TrainingError: it could not be written (a full disk, say); the former checkpoints are as they were.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        arguments = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(_as_leaves(state)), record=self._ocp.args.JsonSave(self.record)
        )
        try:
            self.manager.save(step, args=arguments)
            self.manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            size = sum(leaf.nbytes for leaf in _as_leaves(state).values())
            alone = jax.process_count() == 1
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {step} ({size} bytes) could not be written: {error}. The "
                f"checkpoint of step {self.latest()} stands. Make room{'' if alone else ', see whether a host is gone,'} and "
                "start the same command again."
            ) from None

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, in the shapes of `like`.

        Raises:
            TrainingError: it is of a run with other settings or other data; each difference is named. Or it is damaged.
        """
        step = self.latest()
        ocp = self._ocp
        record = self._read("record", ocp.args.JsonRestore())
        if not isinstance(record, dict):
            raise self._damaged("its record is no object")
        differences = [
            f"{key} was {record.get(key)!r}, is {self.record.get(key)!r}"
            for key in sorted(record.keys() | self.record.keys())
            if record.get(key) != self.record.get(key)
        ]
        if differences:
            raise TrainingError(
                f"{self.folder}: the checkpoint of step {step} is of another run: {'; '.join(differences)}. Start again "
                "with the same settings and data, or choose another output folder."
            )
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in _as_leaves(like).items()
        }
        return _from_leaves(self._read("state", ocp.args.StandardRestore(abstract)), like)

    def _read(self, item: str, arguments: Any) -> Any:
        try:
            return self.manager.restore(self.latest(), args=self._ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # orbax, tensorstore and their codecs have no class in common
            raise self._damaged(f"{item}: {type(error).__name__}: {error!s:.300}") from None

    def _damaged(self, why: str) -> TrainingError:
        step = self.latest()
        return TrainingError(
            f"{self.folder / str(step)}: the checkpoint cannot be read ({why}). Remove this folder to go on from the one "
            "before, or start again in another run folder."
        )

    def close(self) -> None:
        """Let go of the folder."""
        self.manager.close()


def _as_leaves(state: TrainState) -> dict[str, Any]:
    # Numbered leaves: no optimizer's or module's own types go into the file, and none are needed to read it.
    plain = state._replace(key=jax.random.key_data(state.key))
    return {f"{i:05d}": leaf for i, leaf in enumerate(jax.tree.leaves(plain))}


def _from_leaves(leaves: dict[str, Any], like: TrainState) -> TrainState:
    plain = like._replace(key=jax.random.key_data(like.key))
    state: TrainState = jax.tree.unflatten(jax.tree.structure(plain), [leaves[name] for name in sorted(leaves)])
    return state._replace(key=jax.random.wrap_key_data(jnp.asarray(state.key)))
