"""`minisbert train`: fine-tune a model on a data file. The same command resumes a run that was stopped."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
from tyro import MISSING
from tyro.conf import OmitArgPrefixes, Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from minisbert.checkpoint.json_file import each_key_once
from minisbert.errors import InputError
from minisbert.training.config import RECIPE_LENGTHS, RECIPES, TrainConfig


def parse_options(words: list[str]) -> dict[str, Any]:
    """Options of a loss from JSON. Lists become tuples, as in the losses.

    Example:
        >>> parse_options(['{"margin": 0.3}'])
        {'margin': 0.3}
    """
    try:
        options = json.loads(words[0], object_pairs_hook=each_key_once)
    except ValueError as error:
        raise InputError(f"--loss-options is {words[0]!r}, not JSON ({error}). Expected a JSON object.") from None
    if not isinstance(options, dict):
        raise InputError(f"--loss-options is {words[0]!r}. Expected a JSON object, such as '{{\"scale\": 30}}'.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _with_fields(config: type) -> str:
    """A dataclass's docstring with those of its fields, each on one line: tyro keeps line breaks."""
    found = docstring_parser.parse_from_object(config)
    fields = [f"    {field.arg_name}: {' '.join((field.description or '').split())}" for field in found.params]
    return "\n".join([found.short_description or "", "", "Args:", *fields])


JSON = PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=parse_options,
    is_instance=lambda value: value is None or isinstance(value, dict),
    str_from_instance=lambda value: [json.dumps(value)],
)


# Fields that may be more in Python get the types that flags need; the help texts are those of TrainConfig.
@dataclass(frozen=True)
class Settings(TrainConfig):
    """What the run computes: the same settings, data and starting model give the same weights."""

    data: Annotated[tuple[str, ...], arg(metavar="FILE")]
    loss: str = "multiple_negatives_ranking"
    loss_options: Annotated[dict[str, Any] | None, JSON] = None
    kind: str | None = None
    text_columns: tuple[str, ...] = ()
    label_columns: Annotated[tuple[str, ...], arg(aliases=["--label-column"])] = ()
    classes: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    trainable: str | None = None
    teacher: str | None = None
    prompts: tuple[str, ...] = ()


Settings.__doc__ = _with_fields(TrainConfig)


@dataclass(frozen=True)
class Start:
    """The model to start from."""

    max_seq_length: int | None = None
    """Tokens per text (per pair with --cross-encoder); longer ones are cut."""
    cross_encoder: bool = False
    """Train a model that scores pairs. MODEL is a cross-encoder, or an encoder that gets a new head."""
    num_labels: int | None = None
    """Labels of the new head, 1 by default; the number of classes for cross_entropy."""
    random_weights: bool = False
    """Start from random weights instead of the model's."""
    offline: bool = False
    """Never open a socket."""


@dataclass(frozen=True)
class Devices:
    """Where to train. On several hosts start the same command on each."""

    devices: int | None = None
    """The number of devices; by default all that JAX finds. The loss is that of the global batch on any number."""
    layout: str = "replicated"
    """How the devices hold the parameters: replicated, fsdp (sharded), or tensor (each layer split over --model-devices)."""
    model_devices: int = 1
    """With --layout tensor: how many devices share a copy of the model."""
    on_new_shape: str | None = None
    """For a batch shape first seen mid-run: compile (a stall, with a warning) or error, as on several hosts or TPUs."""
    coordinator: Annotated[str | None, arg(metavar="ADDRESS:PORT")] = None
    """Address and port of the first host."""
    hosts: int | None = None
    """The number of hosts."""
    host: int | None = None
    """The number of this host, counted from 0."""
    cluster: bool = False
    """Take these three from the environment (TPU pods, SLURM, MPI)."""


def train(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    run: Annotated[Positional[str], arg(metavar="FOLDER")],
    training: OmitArgPrefixes[Settings],
    *,
    recipe: str | None = None,
    scale: float | None = None,
    evaluate: Annotated[tuple[str, ...], arg(metavar="FILE")] = (),
    plan: bool = False,
    memory: float | None = None,
    chip: Annotated[tuple[str, ...], arg(metavar="CHIP [CHIP ...]")] = (),
    dump_hlo: Annotated[str | None, arg(metavar="FILE")] = None,
    start: OmitArgPrefixes[Start] = Start(),
    device: OmitArgPrefixes[Devices] = Devices(),
) -> int:
    """Train a model on sentence pairs, triplets or scored pairs.

    Example: minisbert train all-MiniLM-L6-v2 runs/pairs --data pairs.tsv --batch-size 2 --max-steps 3

    Args:
        model: a folder, a known name, or a name on the hub.
        run: folder for checkpoints, metrics and the trained model; a stopped run in it is resumed.
        recipe: published settings: "all" is the recipe of the all-* models (2021), with batches of 1024, 128 tokens and
            100,000 steps. Explicit flags override the recipe.
        scale: the scale of the loss (1 / temperature), if it has one.
        evaluate: STS files to score during the run; the best model is saved. For a cross-encoder with several labels, NLI
            files and its accuracy.
        plan: print what the run will need (memory, FLOPs, speed on known chips) and stop. Reads only the model's config.
        memory: with --plan, the GiB of one device: also print the largest batch that fits.
        chip: with --plan, compile for this TPU (v3-8, v4-8, v5e-4, v5e-8, v5e-16, v5e-64, v5p-8, v5p-16, v5p-128, v6e-8):
            memory, time and collectives by its own compiler; of several a table. Needs the extra tpu-plan and no TPU.
        dump_hlo: with --chip, a file for the compiled program.
    """
    if device.cluster or (device.coordinator, device.hosts, device.host) != (None, None, None):
        from minisbert.commands.supervision import in_child

        in_child(run)  # before jax is imported
        from minisbert.training.multihost import join

        join(device.coordinator, device.hosts, device.host)

    config = replace(training, loss_options=_loss_options(training, recipe, scale))
    if start.num_labels is not None and not start.cross_encoder:
        raise InputError(f"num_labels is {start.num_labels} without --cross-encoder. Expected both or neither.")
    if memory is not None and not plan:
        raise InputError(f"memory is {memory} without --plan. Expected both or neither.")
    if (chip and not plan) or (dump_hlo is not None and len(chip) != 1):
        raise InputError(
            f"chip is {' '.join(chip) or None}, dump_hlo {dump_hlo}. Expected --plan with --chip, and one chip "
            "with --dump-hlo."
        )
    if plan:
        from minisbert.commands.plans import print_train_plan

        print_train_plan(model, config, start, device, memory=memory, chips=chip, dump_hlo=dump_hlo)
        return 0

    from minisbert.training.trainer import train as run_training

    trained = _load(model, start, config.seed)
    if start.max_seq_length is not None:
        trained.max_seq_length = start.max_seq_length
    with _logging_to_stderr():
        run_training(
            trained,
            config,
            run,
            score=_score(trained, evaluate) if evaluate else None,
            show_progress=sys.stderr.isatty(),
            devices=device.devices,
            layout=device.layout,
            model_devices=device.model_devices,
            on_new_shape=device.on_new_shape,
            keep_encoder=False,
        )
    print(Path(run) / "final")
    return 0


def prepare(words: Sequence[str]) -> tuple[Callable[..., int], list[str]]:
    """`train` with the recipe from the command line as defaults, and the arguments with old flags renamed."""
    flags = argparse.ArgumentParser(prog="minisbert train", add_help=False, allow_abbrev=False)
    for name in ("--recipe", "--warmup", "--reduction", "--new-shapes"):
        flags.add_argument(name)
    given, others = flags.parse_known_args(words)
    today = {"--recipe": given.recipe, "--warmup": given.warmup, "--on-new-shape": given.new_shapes}
    words = others + [word for name, value in today.items() if value is not None for word in (name, value)]
    words += ["--deterministic"] * (given.reduction == "ordered")
    if given.recipe is None:
        return train, words
    if given.recipe not in RECIPES:
        raise InputError(f"recipe is {given.recipe!r}. Expected one of {', '.join(RECIPES)}.")
    settings = dict(RECIPES[given.recipe])
    if given.warmup is not None:
        del settings["warmup_steps"]
    start = Start(RECIPE_LENGTHS[given.recipe])
    return partial(train, training=Settings(MISSING, **settings), start=start), words


def _loss_options(settings: TrainConfig, recipe: str | None, scale: float | None) -> dict[str, Any] | None:
    """The given options, over those of the recipe if it uses the same loss."""
    published = RECIPES.get(recipe or "", {})
    options = settings.loss_options or {}
    if settings.loss == published.get("loss"):
        options = {**published["loss_options"], **options}
    elif options == published.get("loss_options"):
        options = {}
    return {**options, **({} if scale is None else {"scale": scale})} or None


def _load(name: str, start: Start, seed: int) -> Any:
    """The SentenceEncoder or CrossEncoder to train."""
    from minisbert.checkpoint.kinds import sign_of_cross_encoder
    from minisbert.checkpoint.settings import ModelFiles
    from minisbert.cross_encoder.encoder import CrossEncoder
    from minisbert.download.locate import locate
    from minisbert.sentence_encoder import SentenceEncoder

    folder = locate(name, offline=start.offline)
    if start.cross_encoder and sign_of_cross_encoder(ModelFiles(folder)):
        if start.random_weights:
            raise InputError(
                f"{name} is a cross-encoder. --random-weights needs an encoder; leave the flag out, or choose one."
            )
        return CrossEncoder(folder, num_labels=start.num_labels)
    encoder = SentenceEncoder(folder)
    if start.random_weights:
        encoder = with_random_weights(encoder, seed)
    if not start.cross_encoder:
        return encoder
    return CrossEncoder.from_encoder(encoder, 1 if start.num_labels is None else start.num_labels, seed=seed)


def with_random_weights(encoder: Any, seed: int) -> Any:
    """An encoder with the same config and tokenizer, and random weights."""
    from minisbert.sentence_encoder import SentenceEncoder
    from minisbert.sentence_model import initial_params

    return SentenceEncoder(replace(encoder.pretrained, params=initial_params(encoder.model_config, seed)))


def _score(model: Any, files: tuple[str, ...]) -> Callable[[Any], float]:
    """The function that scores the model during the run."""
    from minisbert.cross_encoder.evaluation import accuracy_score, spearman_score
    from minisbert.evaluation.sts import sts_score

    labels = getattr(model, "num_labels", None)
    return sts_score(files) if labels is None else spearman_score(files) if labels == 1 else accuracy_score(files)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Show the log of the run on stderr, once."""
    log, handler = logging.getLogger("minisbert"), logging.StreamHandler()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # the checkpoint library gives the root logger a handler, which would repeat everything
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
