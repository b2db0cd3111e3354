"""What callers of sentence-transformers expect of a model: its names, its keywords, and that it can be pickled.

    encoder.tokenize(["a cat"])                              {"input_ids": int64 [1, 4], "attention_mask": ...}
    encoder.encode(texts, convert_to_numpy=True, device="cpu")       keywords that change nothing are accepted
    pickle.loads(pickle.dumps(encoder))                      joblib, Dask, and multiprocessing's spawn do the same

A keyword that would change the result is refused by name. Compiled programs are not pickled: they are compiled again.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from minisbert import arguments as checks
from minisbert.checkpoint.keys import ARGUMENTS
from minisbert.checkpoint.settings import Settings
from minisbert.errors import InputError, short_repr
from minisbert.inference.batching import rectangle
from minisbert.inference.engines import has_jax
from minisbert.similarity import SIMILARITIES

# Keyword -> the values that change nothing here, and what to do for another value.
HARMLESS: dict[str, tuple[tuple[Any, ...], str]] = {
    "convert_to_numpy": ((True, None), "the result is a NumPy array; list(...) gives the rows one by one"),
    "convert_to_tensor": ((False, None), "the result is a NumPy array; torch.from_numpy(...) shares its memory"),
    "pool": (
        (None,),
        "the model computes on all devices of this process; use `minisbert encode --workers` for several",
    ),
    "chunk_size": ((None,), "only a pool of processes has chunks"),
    "device": ((None,), "JAX chooses the device when it starts; set JAX_PLATFORMS=cpu, cuda or tpu before"),
    # Of older versions.
    "num_workers": ((0, None), "texts are tokenized in this process, while the device computes"),
}
# The same for their classes. `trust_remote_code=True` permits what is never done here, so it changes nothing.
OF_CLASS: dict[str, tuple[tuple[Any, ...], str]] = {
    "device": HARMLESS["device"],
    "trust_remote_code": ((True, False, None), "code in a folder is never run"),
    "backend": (("torch", None), "models are computed by JAX, those of SentenceEncoder also by NumPy (`engine`)"),
    **dict.fromkeys(
        ("model_kwargs", "automodel_args"),
        (({}, None), "bfloat16 is `compute_dtype`; other settings are those of the folder"),
    ),
    **dict.fromkeys(
        ("tokenizer_kwargs", "tokenizer_args", "processor_kwargs", "config_kwargs", "config_args"),
        (({}, None), "the folder has these settings"),
    ),
    "modules": ((None,), "a model is loaded from its folder, which names its modules"),
    "model_card_data": ((None,), "training writes the model card"),
    "keep_in_fp32_modules": ((None, []), "heads are computed in float32 at least"),
}
# The same for `save`, which writes safetensors and no model card.
OF_SAVE: dict[str, tuple[tuple[Any, ...], str]] = {
    "create_model_card": ((True, False, None), ""),
    **dict.fromkeys(("model_name", "train_datasets"), ((None,), "training writes the model card")),
    "safe_serialization": ((True, None), "weights are written as safetensors"),
}
# The names of arguments of the classes in sentence-transformers, where they differ -> ours.
MODEL_NAMES = {
    **dict.fromkeys(("model_name_or_path", "model_name"), "model"),
    **dict.fromkeys(("cache_folder", "cache_dir"), "cache"),
    "local_files_only": "offline",
    "use_auth_token": "token",
}
# Settings of a folder that the classes of sentence-transformers take as keywords, and so do ours.
PROMPTS = ("prompts", "default_prompt_name")
SETTINGS = (*PROMPTS, "similarity_fn_name", "truncate_dim")  # of SentenceEncoder
# What their models have and ours do not -> what to do instead.
ABSENT = {
    **dict.fromkeys(("to", "cpu", "cuda", "device"), HARMLESS["device"][1]),
    **dict.fromkeys(("half", "bfloat16"), 'the class takes compute_dtype="bfloat16"'),
    **dict.fromkeys(
        ("start_multi_process_pool", "stop_multi_process_pool", "encode_multi_process"), HARMLESS["pool"][1]
    ),
    **dict.fromkeys(("fit", "old_fit", "train"), "minisbert.train(model, TrainConfig(...), folder) trains a model"),
    "eval": "dropout is off except in training",
    "evaluate": "minisbert.evaluate_sts(model, files) does, or their evaluators of compat.sentence_transformers(model)",
    "truncate_sentence_embeddings": "`encode` takes truncate_dim, and so does the class",
    "push_to_hub": "`save` a folder, then `hf upload NAME FOLDER`",
    **dict.fromkeys(("parameters", "named_parameters", "state_dict"), "`params` are the parameters, as nested dicts"),
}
_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "tpu": "tpu"}


F = TypeVar("F", bound=Callable[..., Any])


def other_names(names: Mapping[str, str]) -> Callable[[F], F]:
    """A decorator of a method that takes keywords under other names, too: other name -> ours.

    Raises:
        InputError: an argument is given under both names.
    """

    def decorate(method: F) -> F:
        @wraps(method)
        def called(*args: Any, **keywords: Any) -> Any:
            for other in names.keys() & keywords.keys():
                ours = names[other]
                if ours in keywords:
                    raise InputError(f"{ours} and {other} are both given. Expected one of them: they mean the same.")
                keywords[ours] = keywords.pop(other)
            return method(*args, **keywords)

        return cast(F, called)

    return decorate


def check_callers_keywords(
    method: str, keywords: Mapping[str, Any], known: Mapping[str, tuple[tuple[Any, ...], str]] = HARMLESS
) -> None:
    """Accept keywords of sentence-transformers that change nothing.

    Raises:
        InputError: an unknown keyword, or a value that would change the result.
    """
    for name, value in keywords.items():
        if name not in known:
            raise InputError(
                f"{method} got the keyword {name!r}. Expected those of its docstring, or of that of the function that calls "
                "it: help(...) shows them."
            )
        harmless, advice = known[name]
        if any(type(value) is type(one) and value == one for one in harmless) or (name == "device" and _is_here(value)):
            continue
        if isinstance(value, dict) and _change_nothing(name, value):
            continue
        if name == "chunk_size" and keywords.get("pool") is None:
            checks.check_positive(name, value)
            continue
        raise InputError(
            f"{method} got {name}={short_repr(value)}. Expected {' or '.join(map(repr, harmless))}: {advice}."
        )


def called_inputs(name: str, value: Any, keywords: dict[str, Any]) -> Any:
    """The first argument of a method, taken from the keywords if it has another name there.

    sentence-transformers 6 calls it `inputs` everywhere, and earlier versions `sentences` in `predict` too.

    Raises:
        InputError: it is given twice.
    """
    for other in ("inputs", "sentences"):
        if other in keywords:
            if value is not None:
                raise InputError(f"{name} and {other} are both given. Expected one of them: they mean the same.")
            value = keywords.pop(other)
    return value


def class_keywords(name: str, keywords: Mapping[str, Any], settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Those of the keywords of a class that are settings, where they are given; the others must change nothing.

    Raises:
        InputError: an unknown keyword, or a value that would change something.
    """
    check_callers_keywords(name, {key: value for key, value in keywords.items() if key not in settings}, OF_CLASS)
    return {key: keywords[key] for key in settings if keywords.get(key) is not None}


def _change_nothing(name: str, arguments: dict[str, Any]) -> bool:
    """Whether these arguments for transformers change nothing, as in a folder (checkpoint/keys.py)."""
    part = {"automodel_args": "model_args", "tokenizer_kwargs": "tokenizer_args"}.get(name, name)
    plain = {
        key: str(one).removeprefix("torch.") if type(one).__module__ == "torch" else one
        for key, one in arguments.items()
    }
    return len(Settings(plain, name).by_table(ARGUMENTS.get(part, {}))) == len(arguments)


def _is_here(device: Any) -> bool:
    """Whether the computation runs on this kind of device anyway."""
    if not has_jax():
        return str(device) == "cpu"
    import jax

    return _PLATFORMS.get(str(device).removesuffix(":0")) == jax.default_backend()


class Familiar:
    """Names that callers ask for, for SentenceEncoder and CrossEncoder."""

    tokenizer: Any
    padding_id: int
    max_positions: int
    texts_per_row = 1
    prompts: dict[str, str]
    default_prompt_name: str | None
    routes: Mapping[str, Any] = {}
    save: Callable[..., None]
    _max_seq_length: int

    @classmethod
    def load(cls, model: str | Path, **options: Any) -> Self:
        """The same as the class itself: `SentenceEncoder(model, **options)`."""
        return cls(model, **options)  # type: ignore[call-arg]  # the __init__ of a subclass

    def _set_max_seq_length(self, value: int) -> None:
        value = checks.check_positive("max_seq_length", value)
        least = self.tokenizer.special_tokens + self.texts_per_row
        if not least <= value <= self.max_positions:
            raise InputError(
                f"max_seq_length is {value}. Expected {least} to {self.max_positions}: the special tokens and one more for "
                "each text, up to the positions of this encoder."
            )
        self._max_seq_length = value
        for route in self.routes.values():
            route._max_seq_length = min(value, route.max_positions)

    max_seq_length: int = property(  # type: ignore[assignment]
        attrgetter("_max_seq_length"),
        _set_max_seq_length,
        doc="The most tokens of a text (or pair) that are read, special tokens included; may be set, up to `max_positions`.",
    )

    def _change_settings(self, settings: dict[str, Any]) -> None:
        """Replace settings of the folder by these; prompts are added to the folder's."""
        added = settings.pop("prompts", {})
        checks.check_prompts(added)
        for name, value in {**settings, "prompts": {**self.prompts, **added}}.items():
            setattr(self, name, value)
        self._check_settings()

    def _check_settings(self) -> None:
        """Settings as a folder can hold them."""
        checks.check_prompts(self.prompts)
        if self.default_prompt_name is not None:
            checks.prompt_text(None, None, self.prompts, self.default_prompt_name)

    def get_max_seq_length(self) -> int:
        """The same as `max_seq_length`."""
        return self.max_seq_length

    def save_pretrained(self, path: str | Path, **others: Any) -> None:
        """The same as `save`."""
        self.save(path, **others)

    if not TYPE_CHECKING:  # or any attribute would pass its checks

        def __getattr__(self, name: str) -> Any:
            if name in ABSENT:
                text = f"{type(self).__name__!r} object has no attribute {name!r}: {ABSENT[name]}"
                raise AttributeError(text, name=name, obj=self)
            return object.__getattribute__(self, name)  # the usual error, or that of a property

    def __copy__(self) -> Any:
        """A copy that shares the compiled programs."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__, prompts=dict(self.prompts))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: all but the compiled programs."""
        return {name: value for name, value in self.__dict__.items() if name != "forward"}


class FamiliarEncoder(Familiar):
    """The same, for SentenceEncoder."""

    truncate_dim: int | None
    model_config: Any

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.truncate_dim is not None:
            checks.check_positive("truncate_dim", self.truncate_dim)

    def _set_similarity(self, value: Any) -> None:
        name = "cosine" if value is None else getattr(value, "value", value)  # of an enum
        checks.check_choice("similarity_fn_name", name, tuple(SIMILARITIES))
        self._similarity_fn_name = name

    similarity_fn_name: Any = property(
        attrgetter("_similarity_fn_name"),
        _set_similarity,
        doc='The function that `similarity` computes; may be set, also to a SimilarityFunction, or to None for "cosine".',
    )

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings that `encode` returns."""
        return min(self.truncate_dim or self.model_config.dimension, self.model_config.dimension)

    get_sentence_embedding_dimension = get_embedding_dimension  # the older name

    def tokenize(self, texts: Any) -> dict[str, np.ndarray]:
        """Token ids and mask of each text, cut to `max_seq_length`, padded to the longest: int64 `[texts, tokens]`."""
        ids = self.tokenizer.tokenize(checks.check_list("texts", texts), max_length=self.max_seq_length, prompt="").ids
        batch = rectangle(list(enumerate(ids)), len(ids), max(map(len, ids), default=0), self.padding_id)
        mask_BL = np.arange(batch.token_ids_BL.shape[1]) < batch.lengths_B[:, None]
        return {"input_ids": batch.token_ids_BL.astype(np.int64), "attention_mask": mask_BL.astype(np.int64)}
