"""Several hosts: what they agree on, the errors of a wrong setup, and two real processes against one."""

from pathlib import Path

import jax
import numpy as np
import pytest
from two_hosts import equal, stop

from minisbert.data.sampler import Batch
from minisbert.errors import InputError, TrainingError
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define
from minisbert.training.collate import train_batch
from minisbert.training.multihost import exit_on_peer_failure, join, sync_batch_shape
from minisbert.training.siamese import packed_embed, unpack
from minisbert.training.trainer import END, TERMINATE

WEIGHTS = Path(__file__).parents[2] / "weights"
TINY_BERT = WEIGHTS / "tiny-bert"


@pytest.mark.slow
def test_two_hosts_train_as_one_does_and_resume_after_a_kill(tmp_path):
    """A transformer of one layer; `two_hosts.py equal` has two, and dropout."""
    assert equal(tmp_path, WEIGHTS / "tiny-xlm-roberta", "--no-dropout") < 1e-5


@pytest.mark.slow
def test_when_one_host_is_asked_to_stop_both_save_the_same_step(tmp_path):
    """A table of vectors: what the hosts agree on does not depend on the model."""
    first, second = stop(tmp_path, WEIGHTS / "tiny-static")
    assert first == second and first.startswith("stopped after step ")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: the other end is gone"), TrainingError),
        # What the same collective raises when it fails on the way to the device.
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), TrainingError),
        (ValueError("a mistake of ours"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_broken_connection_is_a_training_error(error, raised, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("threading.Timer.start", lambda self: None)  # it would end this process
    with pytest.raises(raised) as caught, exit_on_peer_failure("runs/x"):
        raise error
    assert raised is not TrainingError or "lost another one" in str(caught.value)


def test_any_host_can_end_the_run_and_that_counts_more_than_sigterm(monkeypatch):
    encoder = SentenceEncoder.load(TINY_BERT)
    pair = Batch(0, 0, np.arange(1), [["a man eats"], ["someone has a meal"]], None)
    batch, _ = train_batch(pair, encoder.tokenizer, max_length=64, padding_id=0)
    others = [TERMINATE, END, 0]
    gathered = lambda mine: np.stack([mine, *([*mine[:2], asked] for asked in others)])  # noqa: E731
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", gathered)
    assert sync_batch_shape(batch, 0, 0)[1] == END
    others.remove(END)
    assert sync_batch_shape(batch, 0, 0)[1] == TERMINATE


def test_wider_rows_hold_the_same_texts():
    encoder = SentenceEncoder.load(TINY_BERT)
    texts = [["a man eats", "two dogs run in the park", "rain"], ["someone has a meal", "dogs", "it rains all day"]]
    batch, _ = train_batch(Batch(0, 0, np.arange(3), texts, None), encoder.tokenizer, max_length=64, padding_id=0)
    embed = packed_embed(define(encoder.model_config)[0])
    params = encoder.pretrained.params
    wide = batch.pad_to(3, 128, 0)
    assert wide.rows.token_ids_PL.shape == (3, 128)
    narrow_SBD, wide_SBD = (unpack(embed(params, b.rows), b.index_SB) for b in (batch, wide))
    np.testing.assert_allclose(narrow_SBD, wide_SBD, atol=1e-6)


@pytest.mark.parametrize(
    ("coordinator", "hosts", "host", "message"),
    [
        ("nowhere", 2, 0, "address:port"),
        ("10.0.0.1:99999", 2, 0, "address:port"),
        ("10.0.0.1:1234", 2, 2, "which this is, from 0"),
        ("10.0.0.1:1234", None, 0, "how many there are"),
        (None, 2, 0, "without a coordinator"),
    ],
)
def test_a_wrong_setup_is_refused(coordinator, hosts, host, message):
    with pytest.raises(InputError, match=message):
        join(coordinator, hosts, host)
