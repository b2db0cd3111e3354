"""Run an exported StableHLO model without the model's code; `minisbert export` writes the folder.

    encoder = ExportedEncoder.load("minilm.exported")
    encoder.encode(["A man is eating food."])                      # SentenceEncoder.encode's embeddings, within 1e-6

The folder holds StableHLO, the portable input of XLA, as `jax.export` serializes it (later releases of JAX read it for at least
six months); the weights; the tokenizer; and `minisbert_export.json`, with the sha256 of each. Only jax, tokenizers, numpy and
flatbuffers are needed. The batching is the simplest possible: for speed use SentenceEncoder.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minisbert.arguments import as_list, check_positive, prompt_text
from minisbert.errors import InputError, ModelFolderError, needs
from minisbert.export import exported_folder as files
from minisbert.export.exported_folder import SETTINGS, WEIGHTS, of_library

logger = logging.getLogger("minisbert")


class ExportedEncoder:
    """A sentence embedding model from an exported folder; most callers want `ExportedEncoder.load`."""

    def __init__(
        self, settings: dict[str, Any], programs: dict[int | None, Any], weights: dict[str, Any], backend: Any
    ):
        self.settings = settings
        self.prompts: dict[str, str] = settings["prompts"]
        self.max_seq_length: int = settings["lengths"][-1]
        self._backend = backend
        self._weights = jax.device_put(weights)
        self._programs = {length: jax.jit(program.call) for length, program in programs.items()}

    @staticmethod
    def load(folder: str | Path) -> "ExportedEncoder":
        """Read a folder that `minisbert export` wrote.

        Raises:
            ModelFolderError: not such a folder; a file that is missing, altered, or does not fit the others; a program that
                calls anything but StableHLO, or is for other kinds of device.
        """
        need_flatbuffers()
        folder = Path(folder)
        settings = files.read_settings(folder)
        if not runs_here(settings["platforms"]):
            raise ModelFolderError(
                f"{folder / SETTINGS}: made for {', '.join(settings['platforms'])}, this machine computes on "
                f"{jax.default_backend()}. Export the model again for this platform."
            )
        weights = files.read_weights(folder / WEIGHTS)
        programs = files.read_programs(folder, settings, weights)
        return ExportedEncoder(settings, programs, weights, files.read_tokenizer(folder, settings, weights))

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        normalize_embeddings: bool = False,
    ) -> np.ndarray:
        """Embed one text or many, as SentenceEncoder.encode does; warns about texts that are cut.

        Returns:
            float32 `[sentences, dimension]`; for one string, one vector.

        Raises:
            InputError: a sentence is not text; an unknown prompt; a batch size below 1.
            ModelFolderError: the program fails, or its embeddings are not finite.
        """
        texts, single = as_list(sentences)
        batch_size = check_positive("batch_size", batch_size)
        prompt = prompt_text(prompt, prompt_name, self.prompts, self.settings["default_prompt_name"])
        ids, prompt_length = self._tokenize(texts, prompt)
        full, dimension = self.settings["dimension"], self.settings["truncate_dim"]
        embeddings = np.empty((len(texts), min(dimension or full, full)), np.float32)
        queues: dict[int, list[int]] = {}  # padded length -> its texts
        for row, tokens in enumerate(ids):
            queues.setdefault(next(n for n in self.settings["lengths"] if n >= len(tokens)), []).append(row)
        for length, rows in queues.items():
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                found_BD = self._run([ids[row] for row in batch], length, batch_size, prompt_length)
                embeddings[batch] = found_BD[:, : embeddings.shape[1]]
        if normalize_embeddings:
            embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings[0] if single else embeddings

    def _run(self, ids: Sequence[Sequence[int]], length: int, batch_size: int, prompt_length: int) -> np.ndarray:
        rows = 1 if len(ids) == 1 else batch_size  # two compiled shapes per length; empty rows complete the second
        token_ids_BL = np.full((rows, length), self.settings["padding_id"], np.int32)
        lengths_B = np.zeros(rows, np.int32)
        for b, tokens in enumerate(ids):
            token_ids_BL[b, : len(tokens)] = tokens
            lengths_B[b] = len(tokens)
        program = self._programs.get(length) or self._programs[None]
        try:
            found_BD = np.asarray(program(self._weights, token_ids_BL, lengths_B, np.int32(prompt_length)))[: len(ids)]
        except Exception as error:  # of XLA, which compiles the program at its first use
            raise ModelFolderError(
                f"the exported program fails here ({error!s:.300}). Export the model again."
            ) from None
        if not np.isfinite(found_BD).all():
            raise ModelFolderError("the exported program gives NaN or infinity. Export the model again.")
        return found_BD

    def _tokenize(self, texts: Sequence[str], prompt: str) -> tuple[list[list[int]], int]:
        """Token ids of each text, and how many of them belong to the prompt."""
        prefix, suffix = self.settings["prefix"], self.settings["suffix"]
        room = self.max_seq_length - len(prefix) - len(suffix)
        try:
            encodings = self._backend.encode_batch([prompt + text for text in texts], add_special_tokens=False)
        except BaseException as error:  # lone surrogates
            if not of_library(error):
                raise
            raise InputError(f"a sentence cannot be tokenized ({error}). Expected valid Unicode.") from None
        cut = sum(len(encoding.ids) > room for encoding in encodings)
        if cut:
            logger.warning(
                f"{cut} of {len(texts)} sentences are longer than {self.max_seq_length} tokens and were cut."
            )
        prompt_length = 0
        if prompt:
            tokens = self._backend.encode(prompt, add_special_tokens=False).ids
            prompt_length = min(len(prefix) + len(tokens), self.max_seq_length - len(suffix))
        return [prefix + encoding.ids[:room] + suffix for encoding in encodings], prompt_length


def need_flatbuffers() -> None:
    """Raises InputError unless flatbuffers is installed: JAX serializes programs with it but does not require it."""
    with needs("exported programs need flatbuffers", "export"):
        import flatbuffers  # noqa: F401


def runs_here(platforms: Sequence[str]) -> bool:
    """Whether JAX's default device is of one of these kinds."""
    here = jax.default_backend()
    return bool(({"cuda", "rocm"} if here == "gpu" else {here}) & set(platforms))
