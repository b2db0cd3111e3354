"""Training on a failing disk: the last checkpoint survives, the error names the place, and the same command resumes.

Orbax writes a checkpoint partly in Python and partly in tensorstore. disk.py's failing calls hit the first, the kernel's limit
on the size of a file hits the second, and a full disk both.
"""

import re
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from disk import Disk, largest_file, leave, small_disk, snapshot
from runs import ONE_LAYER

from minisbert import SentenceEncoder
from minisbert.errors import MinisbertError, TrainingError, WriteError
from minisbert.training.checkpoints import Checkpoints
from minisbert.training.config import TrainConfig
from minisbert.training.siamese import initial_state
from minisbert.training.trainer import train

RECORD = {"data": "none"}
MOST_CALLS = 200


def state(step: int):
    """A small state with its step in its values."""
    params = {"model": {"kernel": np.full((50, 40), step, np.float32), "bias": np.arange(7.0)}, "head": {}}
    return initial_state(params, optax.adam(1e-3), 0)._replace(step=np.int32(step))


def restored(folder: Path):
    """The state that a new process restores."""
    checkpoints = Checkpoints(folder, RECORD)
    found = None if checkpoints.latest() is None else checkpoints.restore(state(0))
    checkpoints.close()
    return found


def assert_state_of(found, step: int) -> None:
    """It is the state of that step to the bit."""
    assert int(found.step) == step
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(state(step).params), strict=True):
        np.testing.assert_array_equal(a, b)


def failing_save(folder: Path, step: int) -> TrainingError | None:
    """Save as a new process would; returns the error."""
    checkpoints = Checkpoints(folder, RECORD)
    try:
        checkpoints.save(state(step))
        return None
    except TrainingError as error:
        return error
    finally:
        checkpoints.close()


def check_former(folder: Path, error: TrainingError) -> None:
    """The checkpoint of step 3 is unchanged, and the error says so."""
    assert_state_of(restored(folder), 3)
    assert str(folder) in str(error) and re.search(r"step 5 \(\d+ bytes\)", str(error))
    assert "checkpoint of step 3 is unchanged" in str(error)


def test_each_file_operation_of_a_save_fails_once(tmp_path):
    folder = tmp_path / "run"
    assert failing_save(folder, 3) is None
    failures = 0
    for n in range(1, MOST_CALLS):
        checkpoints = Checkpoints(folder, RECORD)
        with Disk(folder, n) as disk:
            try:
                checkpoints.save(state(5))
                error = None
            except TrainingError as caught:
                error, failures = caught, failures + 1
        checkpoints.close()
        if error is not None:
            check_former(folder, error)
            continue
        # Orbax ignores failures that do not matter to the checkpoint, which is then complete.
        assert_state_of(restored(folder), 5)
        if disk.failed is None:
            break
        again = Checkpoints(folder, RECORD)
        again.manager.delete(5)
        again.close()
    else:
        pytest.fail("no save succeeded")
    assert failures > 3, disk.calls


def test_a_limit_on_the_file_size(tmp_path):
    folder = tmp_path / "run"
    assert failing_save(folder, 3) is None
    size, failures = 0, 0
    while size < 1_000_000:
        with largest_file(size):
            error = failing_save(folder, 5)
        if error is None:
            break
        check_former(folder, error)
        size, failures = size * 4 + 100, failures + 1
    assert failures > 2
    assert_state_of(restored(folder), 5)


def test_a_checkpoint_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        assert failing_save(disk / "run", 3) is None
        room, failures = 0, 0
        while room < 800_000:
            leave(disk, room)
            error = failing_save(disk / "run", 5)
            if error is None:
                break
            check_former(disk / "run", error)
            room, failures = room * 2 + 8192, failures + 1
        assert failures > 0
        assert_state_of(restored(disk / "run"), 5)


# --- a whole run ---------------------------------------------------------------------------------------------------

WORDS = "man woman child dog cat water red blue green walk run eat".split()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [f"a {a} with a {b}\tthe {b} and the {a}" for a, b in pairwise(WORDS)]
    file = tmp_path_factory.mktemp("data") / "pairs.tsv"
    file.write_text("anchor\tpositive\n" + "\n".join(rows) + "\n")
    return str(file)


def run(pairs: str, folder: Path) -> None:
    """Train two steps, each with a score and a checkpoint."""
    settings = {"batch_size": 4, "max_steps": 2, "warmup": 0.0, "checkpoint_every": 1, "evaluate_every": 1}
    config = TrainConfig(data=(pairs,), learning_rate=1e-3, dropout=False, **settings)
    train(SentenceEncoder.load(ONE_LAYER), config, folder, score=score, show_progress=False)


def score(encoder: SentenceEncoder) -> float:
    """A number that depends on the weights."""
    return float(np.abs(encoder.pretrained.params["encoder"]["token_embedding"]["embedding"]).sum())


def files_without_checkpoints(folder: Path) -> dict[str, bytes]:
    """The files of a run except its checkpoints."""
    files = snapshot(folder)
    return {name: content for name, content in files.items() if not name.startswith("checkpoints/")}


@pytest.mark.parametrize(
    ("only", "fails_at"),
    # The line of the second step; a file of the final model.
    [("metrics.jsonl", 7), (".final", 7)],
)
def test_a_failed_run_resumes(only, fails_at, pairs, tmp_path, undisturbed):
    with Disk(tmp_path, fails_at, only=only) as disk, pytest.raises(MinisbertError) as caught:
        run(pairs, tmp_path / "run")
    assert disk.failed is not None
    assert isinstance(caught.value, WriteError) and str(tmp_path / "run") in str(caught.value)
    run(pairs, tmp_path / "run")
    assert files_without_checkpoints(tmp_path / "run") == undisturbed


@pytest.fixture(scope="module")
def undisturbed(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(pairs, folder / "run")
    return files_without_checkpoints(folder / "run")
