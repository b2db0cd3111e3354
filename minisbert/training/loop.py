"""The training loop: data, steps, evaluation, checkpoints, until the last step, whatever happens in between.

    train(encoder, TrainConfig(data=("nli.tsv.gz",), loss="softmax"), Path("runs/nli"))

Everything a step needs follows from its number: the batch (data/sampler.py), the dropout (siamese.dropout_keys), the learning
rate (optimizer.schedule). So a run that is killed and started again by the same command ends with the same weights to
the bit. What the run leaves in its folder:

    checkpoints/    the state, newest two            metrics.jsonl   loss, rate, scores by step
    best/           the model with the best score    curves.png      loss and score drawn
    final/          the model after the last step    (each model: an ordinary sentence-transformers folder)
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from minisbert.errors import TrainingStopped
from minisbert.training.config import TrainConfig, check_call
from minisbert.training.multihost import exit_on_peer_failure, is_main_process
from minisbert.training.preemption import on_sigterm
from minisbert.training.report import progress_bar
from minisbert.training.run import Run
from minisbert.training.sharding import data_mesh
from minisbert.training.siamese import StepMetrics

Model = TypeVar("Model")


def train(
    encoder: Model,
    config: TrainConfig,
    folder: Path,
    *,
    score: Callable[[Model], float] | None = None,
    show_progress: bool = True,
    devices: int | None = None,
    layout: str = "replicated",
    model_devices: int = 1,
    on_new_shape: str | None = None,
    keep_encoder: bool = True,
) -> Model:
    """Train a model, or go on where the run in `folder` stopped.

    Args:
        encoder: the model to start from: siamese training for a SentenceEncoder, training/task.py's for a CrossEncoder.
        score: called every `config.evaluate_every` steps; the model with the highest is kept in `folder / "best"`.
            `evaluation.sts.sts_score(files)` makes one, for a cross-encoder `cross_encoder.evaluation.spearman_score(files)`.
        devices: how many to train on, None for all that JAX finds. The loss is the global batch's whatever they are; a run
            may go on with another number (then not to the bit).
        layout: of the parameters on them, a row of sharding.LAYOUTS.
        model_devices: over how many of them `tensor` cuts each layer.
        on_new_shape: what a shape of batch that comes unforeseen is, a row of programs.ON_NEW_SHAPE.
        keep_encoder: False saves the memory of one copy of the parameters: `encoder` is of no use afterwards.

    Returns:
        the trained encoder; it is in `folder / "final"` too.

    Raises:
        InputError, DataError: settings or data that cannot be trained on, before the first step.
        TrainingError: a step was not finite, a checkpoint could not be written, or the folder holds another run.
        WriteError: the model or the metrics could not be written.
        TrainingStopped: SIGTERM came; the state is saved.
    """
    check_call(folder, score, layout)
    run = Run(
        encoder, config, Path(folder), score, data_mesh(devices, model_devices), layout, on_new_shape, keep_encoder
    )
    with on_sigterm() as asked_to_stop, exit_on_peer_failure(str(folder)):
        state, step = run.start()
        progress = progress_bar(run.steps, step, show_progress and is_main_process())
        pending: tuple[int, StepMetrics] | None = None
        started = time.perf_counter()
        while step < run.steps:
            batch, stop = run.batch(step, asked_to_stop.is_set)
            state, metrics = run.programs(state, batch)
            # The metrics of the step before are read while this one is computed.
            if pending is not None:
                run.note(*pending, progress)
            pending, step = (step, metrics), step + 1
            if stop or step == run.steps or step % config.checkpoint_every == 0 or run.evaluates_at(step):
                run.note(*pending, progress)
                pending = None
                if run.evaluates_at(step):
                    run.evaluate(state, step)
                if stop or step == run.steps or step % config.checkpoint_every == 0:
                    run.checkpoints.save(state)
            if stop and step < run.steps:
                raise TrainingStopped(
                    f"{run.folder}: stopped after step {step} of {run.steps} and saved. Start the same "
                    "command again to go on."
                )
        progress.close()
        return run.finish(state, time.perf_counter() - started)
