"""`minisbert train`: fine-tune a model on a data file; killed and started again, the same command goes on.

minisbert train all-MiniLM-L6-v2 runs/nli --data nli.tsv.gz --loss softmax --evaluate stsb_dev.tsv.gz
"""

import json
import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minisbert.cross_encoder.encoder import CrossEncoder
    from minisbert.sentence_encoder import SentenceEncoder


def train(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    run: Annotated[Positional[str], arg(metavar="FOLDER")],
    *,
    data: Annotated[tuple[str, ...], arg(metavar="FILE")],
    recipe: str | None = None,
    loss: str | None = None,
    scale: float | None = None,
    loss_options: str | None = None,
    matryoshka: tuple[int, ...] = (),
    kind: str | None = None,
    score_range: tuple[float, float] | None = None,
    epochs: int = 1,
    max_steps: int | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    accumulate: int = 1,
    reduction: str = "plain",
    blocks: int = 8,
    learning_rate: float | None = None,
    warmup: float | None = None,
    warmup_steps: int | None = None,
    decay: str | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    remat: bool = False,
    teacher: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: tuple[str, ...] = ("query", "value"),
    report_to: tuple[str, ...] = (),
    compute_dtype: str = "float32",
    no_dropout: bool = False,
    mixing: str = "proportional",
    no_duplicates: bool = False,
    prompts: tuple[str, ...] = (),
    evaluate: Annotated[tuple[str, ...], arg(metavar="FILE")] = (),
    evaluate_every: int = 500,
    checkpoint_every: int = 200,
    max_seq_length: int | None = None,
    cross_encoder: bool = False,
    num_labels: int | None = None,
    devices: int | None = None,
    layout: str = "replicated",
    coordinator: Annotated[str | None, arg(metavar="ADDRESS:PORT")] = None,
    hosts: int | None = None,
    host: int | None = None,
    cluster: bool = False,
    model_devices: int = 1,
    on_new_shape: str | None = None,
    plan: bool = False,
    memory: float | None = None,
    random_weights: bool = False,
    seed: int = 0,
    offline: bool = False,
) -> int:
    """Train a model on sentence pairs, triplets or scored pairs.

    Example: minisbert train all-MiniLM-L6-v2 runs/pairs --data pairs.tsv --batch-size 2 --max-steps 3

    Args:
        model: a folder, a known name, or a name on the hub.
        run: folder for checkpoints, metrics and the trained model; a run that was stopped in it goes on.
        data: .tsv, .jsonl (each also .gz), .parquet, or hub:org/name; columns by convention.
        recipe: settings that others have published: `all` is that of the all-* models (2021): global batch 1024, 128 tokens,
            AdamW 2e-5, 500 steps of warm-up then linear, 100,000 steps, clipping at 1, scale 20, symmetric. Other flags
            beside it count more.
        loss: multiple_negatives_ranking by default; softmax, cosine_similarity, cosent, contrastive, online_contrastive,
            triplet, margin_mse, mse (with --teacher); with --cross-encoder binary_cross_entropy, cross_entropy, mse,
            margin_mse.
        scale: the loss's scale, 1 / temperature, where it has one.
        loss_options: options of the loss as JSON, such as '{"margin": 0.3, "distance": "cosine"}'.
        matryoshka: dimensions whose shortened embeddings the loss sees too, such as 384 128 64.
        kind: kind of the data where its columns fit several, such as nli or scored.
        score_range: lowest and highest score of the data; 0 5 for STS.
        epochs: passes over the data.
        max_steps: stop after this many steps.
        batch_size: examples a step, of all devices together; 16 by default.
        chunk_size: texts differentiated at once (GradCache), to bound memory.
        accumulate: steps whose gradients are meaned before the weights change; each one's loss sees its own batch alone.
        reduction: plain, or ordered: the same weights to the bit on 1, 2, 4 or 8 devices, for about a third more time.
        blocks: of ordered, into how many the batch is cut; as many as devices at least.
        learning_rate: the highest rate; 2e-5 by default.
        warmup: share of the steps in which the rate rises; 0.1 by default.
        warmup_steps: the same as a number of steps.
        decay: linear (the default), cosine or constant.
        weight_decay: of matrices and tables; 0.01 by default.
        clip_norm: longest gradient; 1 by default.
        remat: keep less for the way back and compute it again; less memory, more time.
        teacher: the model whose embeddings the loss mse copies.
        lora_rank: train low-rank changes of this rank beside frozen matrices (LoRA); saved merged, an ordinary model.
        lora_alpha: the change counts alpha / rank times; once by default.
        lora_targets: which matrices: query, key, value, output, up, down.
        report_to: tensorboard, wandb or trackio, besides metrics.jsonl.
        compute_dtype: float32 or bfloat16.
        no_dropout: train without dropout.
        mixing: how several data files take turns, proportional or round_robin.
        no_duplicates: no batch holds a text twice.
        prompts: a text to put before each column.
        evaluate: STS files to score during the run; the best model is kept. A cross-encoder with several labels takes NLI
            files and is scored by its accuracy.
        evaluate_every: steps between two evaluations.
        checkpoint_every: steps between two checkpoints.
        max_seq_length: tokens kept of a text (of a pair with --cross-encoder).
        cross_encoder: train a model that scores pairs; MODEL is one, or an encoder that gets a fresh head.
        num_labels: of the fresh head, 1 by default; the number of classes for cross_entropy.
        devices: how many to train on; all that JAX finds by default. The loss is the global batch's in any case.
        layout: of the parameters on several devices: replicated, fsdp (spread over them), or tensor (each layer cut over
            --model-devices).
        model_devices: how many devices share a copy of the model, with --layout tensor.
        on_new_shape: what a batch of unforeseen shape is in the run: compile (a stall, with a warning), or error, the default
            on several hosts and on TPUs.
        plan: print what the run will need and stop: memory, work, rates of named chips. Only the model's config is read.
        memory: of one device in GiB; the plan then says the largest batch.
        coordinator: of several hosts, the first one's; start the same command on each.
        hosts: how many hosts there are.
        host: which of them this is, from 0.
        cluster: find these three in the environment (TPU pods, SLURM, MPI).
        random_weights: start from random weights instead of the model's.
        seed: of order, dropout and random weights.
        offline: never open a socket.
    """
    from pathlib import Path

    if cluster or (coordinator, hosts, host) != (None, None, None):
        from minisbert.commands.supervision import join_in_child

        join_in_child(run, coordinator, hosts, host)

    from minisbert.commands.train_plan import print_plan
    from minisbert.errors import InputError
    from minisbert.evaluation.sts import sts_score
    from minisbert.sentence_encoder import SentenceEncoder
    from minisbert.training.config import TrainConfig
    from minisbert.training.loop import train as run_training

    settings = {
        "loss": loss,
        "loss_options": _options(loss_options, scale),
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "warmup_steps": warmup_steps,
        "decay": decay,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
    }
    if recipe is not None:
        max_seq_length = max_seq_length or _recipe(recipe)[1]
    config = TrainConfig(
        data=data,
        matryoshka=matryoshka,
        kind=kind,
        score_range=score_range,
        epochs=epochs,
        chunk_size=chunk_size,
        accumulate=accumulate,
        reduction=reduction,
        blocks=blocks,
        remat=remat,
        teacher=teacher,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_targets=lora_targets,
        report_to=report_to,
        compute_dtype=compute_dtype,
        dropout=not no_dropout,
        mixing=mixing,
        no_duplicates=no_duplicates,
        prompts=prompts,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
        **_chosen(recipe, settings),
    )
    on: dict[str, Any] = {"devices": devices, "layout": layout, "model_devices": model_devices}
    if plan:
        print_plan(
            model,
            config,
            max_seq_length=max_seq_length,
            cross_encoder=cross_encoder,
            num_labels=num_labels,
            memory=memory,
            offline=offline,
            **on,
        )
        return 0
    if memory is not None:
        raise InputError(f"memory is {memory} without --plan. Expected both, or none.")
    where: dict[str, Any] = {**on, "on_new_shape": on_new_shape, "show_progress": sys.stderr.isatty()}
    if cross_encoder:
        pairs = _cross_encoder(model, num_labels, random_weights, seed, offline)
        if max_seq_length is not None:
            pairs.max_seq_length = max_seq_length
        with _told():
            run_training(pairs, config, Path(run), score=_pair_score(pairs, evaluate), keep_encoder=False, **where)
        print(Path(run) / "final")
        return 0
    if num_labels is not None:
        raise InputError(f"num_labels is {num_labels} without --cross-encoder. Expected both, or none.")
    encoder = SentenceEncoder.load(model, offline=offline)
    if random_weights:
        encoder = _untrained(encoder, seed)
    if max_seq_length is not None:
        encoder.max_seq_length = max_seq_length
    score = sts_score(evaluate) if evaluate else None
    with _told():
        run_training(encoder, config, Path(run), score=score, keep_encoder=False, **where)
    print(Path(run) / "final")
    return 0


@contextmanager
def _told() -> "Iterator[None]":
    """What the run says of itself (where it goes on, what was compiled) goes to stderr while it lasts, once."""
    log, handler = logging.getLogger("minisbert"), logging.StreamHandler()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # checkpointing gives the root logger a handler, which would say everything again
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _recipe(name: str) -> tuple[dict[str, Any], int]:
    """The settings of a recipe, and the tokens kept of a text."""
    from minisbert.errors import InputError
    from minisbert.training.config import RECIPE_LENGTHS, RECIPES

    if name not in RECIPES:
        raise InputError(f"recipe is {name!r}. Expected one of {', '.join(RECIPES)}, or none.")
    return RECIPES[name], RECIPE_LENGTHS[name]


def _chosen(recipe: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings, and over them those that were given; the loss's options likewise, for the same loss."""
    given = {name: value for name, value in settings.items() if value is not None}
    if recipe is None:
        return given
    base = dict(_recipe(recipe)[0])
    if given.get("loss", base["loss"]) != base["loss"]:
        del base["loss_options"]
    if "warmup" in given:
        del base["warmup_steps"]
    options = {**base.pop("loss_options", {}), **given.pop("loss_options", {})}
    return {**base, **given, "loss_options": options or None}


def _options(text: str | None, scale: float | None) -> dict[str, Any] | None:
    """The loss's options from the command line; lists become tuples, as the losses' own defaults are."""
    from minisbert.errors import InputError

    try:
        options = {} if text is None else json.loads(text)
    except ValueError as error:
        raise InputError(f"--loss-options is {text!r}, not JSON ({error}). Expected an object.") from None
    if not isinstance(options, dict):
        raise InputError(f"--loss-options is {text!r}. Expected a JSON object, such as '{{\"scale\": 30}}'.")
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return {**options, **({} if scale is None else {"scale": scale})} or None


def _untrained(encoder: "SentenceEncoder", seed: int) -> "SentenceEncoder":
    from dataclasses import replace

    from minisbert.sentence_encoder import SentenceEncoder
    from minisbert.sentence_model import initial_params

    pretrained = replace(encoder.pretrained, params=initial_params(encoder.model_config, seed))
    return SentenceEncoder.from_model(pretrained)


def _cross_encoder(
    model: str, num_labels: int | None, random_weights: bool, seed: int, offline: bool
) -> "CrossEncoder":
    """A cross-encoder that there is, or an encoder with a fresh head."""
    from minisbert.checkpoint.kinds import sign_of_cross_encoder
    from minisbert.checkpoint.settings import ModelFiles
    from minisbert.cross_encoder.encoder import CrossEncoder
    from minisbert.download.locate import locate
    from minisbert.errors import InputError
    from minisbert.sentence_encoder import SentenceEncoder

    folder = locate(model, offline=offline)
    if sign_of_cross_encoder(ModelFiles(folder)):
        if random_weights:
            raise InputError(f"{model} is a cross-encoder. Expected an encoder with --random-weights; leave one out.")
        return CrossEncoder(folder, num_labels=num_labels)
    encoder = SentenceEncoder.load(folder)
    if random_weights:
        encoder = _untrained(encoder, seed)
    return CrossEncoder.from_encoder(encoder, 1 if num_labels is None else num_labels, seed=seed)


def _pair_score(model: "CrossEncoder", files: tuple[str, ...]) -> "Callable[[CrossEncoder], float] | None":
    """What the model is scored by during the run."""
    from minisbert.cross_encoder.evaluation import accuracy_score, spearman_score

    if not files:
        return None
    return spearman_score(files) if model.num_labels == 1 else accuracy_score(files)
