"""What callers of sentence-transformers expect of a model: its names, its keywords, and that it can be pickled.

    encoder.tokenize(["a cat"])                              {"input_ids": int64 [1, 4], "attention_mask": ...}
    encoder.encode(texts, convert_to_numpy=True, device="cpu")       keywords that change nothing are accepted
    pickle.loads(pickle.dumps(encoder))                      joblib, Dask, and multiprocessing's spawn do the same

A keyword that would change the result is refused by name. Compiled programs are not pickled: they are compiled again.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from minisbert import arguments as checks
from minisbert.errors import InputError, short_repr
from minisbert.inference.batching import rectangle
from minisbert.inference.engines import has_jax

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
    # Of `predict`; `encode` has both as arguments.
    **dict.fromkeys(("prompt_name", "prompt"), ((None,), "put the prompt before the texts of the pairs")),
}
# Keyword of a class of sentence-transformers -> what to do here.
ELSEWHERE = {
    "device": HARMLESS["device"][1],
    "cache_folder": "the folder of downloaded models is `cache`",
    "local_files_only": "`offline=True` forbids the network",
    "trust_remote_code": "code in a folder is never run",
    "token": "log in with `hf auth login`",
    "backend": "models are computed by JAX, those of SentenceEncoder also by NumPy (`engine`)",
    "model_kwargs": "bfloat16 is `compute_dtype`; other settings are those of the folder",
    **dict.fromkeys(("tokenizer_kwargs", "processor_kwargs", "config_kwargs"), "settings are those of the folder"),
}
AFTERWARDS = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "tpu": "tpu"}


def check_callers_keywords(method: str, keywords: Mapping[str, Any]) -> None:
    """Accept keywords of sentence-transformers that change nothing.

    Raises:
        InputError: an unknown keyword, or a value that would change the result.
    """
    for name, value in keywords.items():
        if name not in HARMLESS:
            raise InputError(
                f"{method} got the keyword {name!r}. Expected those of its docstring, or {', '.join(HARMLESS)}."
            )
        harmless, advice = HARMLESS[name]
        if any(value is one for one in harmless) or (name == "device" and _is_here(value)):
            continue
        if name == "chunk_size" and keywords.get("pool") is None:
            checks.check_positive(name, value)
            continue
        raise InputError(
            f"{method} got {name}={short_repr(value)}. Expected {' or '.join(map(repr, harmless))}: {advice}."
        )


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
    max_seq_length: int
    get_embedding_dimension: Callable[[], int]
    _elsewhere: ClassVar[Mapping[str, str]] = ELSEWHERE

    def __new__(cls, *model: Any, **options: Any) -> Self:
        """Refuse a keyword of sentence-transformers' class with what to do instead."""
        for name in options.keys() - inspect.signature(cls.__init__).parameters.keys():  # a subclass may take it
            if name in cls._elsewhere:
                raise InputError(f"{cls.__name__} got the keyword {name!r}. Leave it out: {cls._elsewhere[name]}.")
        return super().__new__(cls)

    @classmethod
    def load(cls, model: str | Path, **options: Any) -> Self:
        """The same as the class itself: `SentenceEncoder(model, **options)`."""
        return cls(model, **options)

    def get_max_seq_length(self) -> int:
        """The same as `max_seq_length`."""
        return self.max_seq_length

    def __copy__(self) -> Any:
        """A copy that shares the compiled programs."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: all but the compiled programs."""
        return {name: value for name, value in self.__dict__.items() if name != "forward"}


class FamiliarEncoder(Familiar):
    """The same, for SentenceEncoder."""

    _elsewhere: ClassVar[Mapping[str, str]] = {
        **ELSEWHERE,
        **{name: f"set it after loading, encoder.{name} = ..." for name in AFTERWARDS},
    }
    similarity_fn_name: Any

    def _similarity_of(self, functions: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
        """The function that `similarity_fn_name` names; None is cosine, as in a folder."""
        name = "cosine" if self.similarity_fn_name is None else self.similarity_fn_name
        checks.check_choice("similarity_fn_name", name, tuple(functions))
        return functions[name]

    def get_sentence_embedding_dimension(self) -> int:
        """The older name of `get_embedding_dimension`."""
        return self.get_embedding_dimension()

    def tokenize(self, texts: Any) -> dict[str, np.ndarray]:
        """Token ids and mask of each text, cut to `max_seq_length`, padded to the longest: int64 `[texts, tokens]`."""
        ids = self.tokenizer.tokenize(checks.check_list("texts", texts), max_length=self.max_seq_length, prompt="").ids
        batch = rectangle(list(enumerate(ids)), len(ids), max(map(len, ids), default=0), self.padding_id)
        mask_BL = np.arange(batch.token_ids_BL.shape[1]) < batch.lengths_B[:, None]
        return {"input_ids": batch.token_ids_BL.astype(np.int64), "attention_mask": mask_BL.astype(np.int64)}
