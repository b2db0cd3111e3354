"""A SentenceEncoder with the interface of `mteb`, so that the tasks of the public leaderboard run on it.

    import mteb
    from minisbert.evaluation.mteb import MTEBModel

    mteb.evaluate(MTEBModel("all-MiniLM-L6-v2"), mteb.get_tasks(tasks=["STSBenchmark"]))

Muennighoff et al. 2023, "MTEB: Massive Text Embedding Benchmark". Needs the package mteb (2.x, which brings torch): pip
install minisbert[mteb]. It works like mteb's wrapper for sentence-transformers: the same prompts, `encode_query`
for queries, `encode_document` for documents. Text only.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.convert import flatten
from minisbert.errors import InputError
from minisbert.sentence_encoder import SentenceEncoder

OPTIONS = ("show_progress_bar", "precision")  # that mteb passes to `encode`


class MTEBModel:
    """A SentenceEncoder as an mteb encoder (its `EncoderProtocol`).

    Args:
        model_name: a name, a folder, or a loaded SentenceEncoder.
        revision: of a hub model.
        device: not used; JAX computes on its default device.
        name: the model name in mteb's results; by default "minisbert/...", to distinguish them from another library's.
        options: for `SentenceEncoder`.

    Raises:
        InputError: mteb is not installed, or too old.
    """

    def __init__(
        self,
        model_name: str | Path | SentenceEncoder,
        revision: str | None = None,
        *,
        device: str | None = None,
        name: str | None = None,
        **options: Any,
    ):
        try:
            from mteb.models.abs_encoder import get_prompt_name
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise InputError(f"mteb 2 is not installed ({error}). Expected mteb 2: pip install 'mteb>=2'.") from None
        self._prompt_name = get_prompt_name  # names and types of tasks take precedence over query and document
        if isinstance(model_name, SentenceEncoder):
            self.encoder, base = model_name, model_name.pretrained.folder.path.name
        else:
            self.encoder = SentenceEncoder(model_name, revision=revision, **options)
            base = Path(model_name).name
        scoring = {"cosine": "cosine", "dot": "dot"}.get(self.encoder.similarity_fn_name)
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name or f"minisbert/{base}",
                "revision": revision or "local",
                "loader": MTEBModel,
                "n_parameters": sum(leaf.size for leaf in flatten(self.encoder.pretrained.params).values()),
                "max_tokens": self.encoder.max_seq_length,
                "embed_dim": self.encoder.get_embedding_dimension(),
                "similarity_fn_name": None if scoring is None else ScoringFunction(scoring),
                "framework": ["JAX"],
            }
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: Any = None,
        **options: Any,
    ) -> np.ndarray:
        """Embed all texts of a data loader: `[texts, dimension]`.

        Args:
            inputs: batches, each with a list of texts under "text".
            task_metadata: names the task, for models with one prompt per task.
            hf_split, hf_subset: not used.
            prompt_type: mteb's "query" or "document", or None.
            batch_size: ignored (mteb's default is 32): inference/batching.py chooses a faster one.
            options: show_progress_bar, precision.

        Returns:
            embeddings `[texts, dimension]`.

        Raises:
            InputError: inputs without text; an unknown option.
        """
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise InputError(f"unknown options {', '.join(unknown)}. Expected only {', '.join(OPTIONS)}, batch_size.")
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InputError(
                    f"{task_metadata.name} has {', '.join(sorted(batch))}. Expected text; choose tasks of the modality text."
                )
            texts += batch["text"]
        encode = {"query": self.encoder.encode_query, "document": self.encoder.encode_document}.get(
            getattr(prompt_type, "value", prompt_type), self.encoder.encode
        )
        name = self._prompt_name(self.encoder.prompts, task_metadata, prompt_type)
        prompt = None if name is None else self.encoder.prompts[name]
        return np.asarray(encode(texts, prompt=prompt, on_truncate="ignore", **options))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """The model's similarity of every embedding with every other: `[N1, N2]`; a scalar for two single vectors."""
        return _scores(self.encoder.similarity, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """The model's similarity of `embeddings1[i]` with `embeddings2[i]`: `[N]`; a scalar for two single vectors."""
        return _scores(self.encoder.similarity_pairwise, embeddings1, embeddings2)


def _scores(similarity: Callable[..., Any], embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """For arrays, or tensors that are not on a GPU."""
    rows = [np.atleast_2d(np.asarray(one, np.float32)) for one in (embeddings1, embeddings2)]
    scores = np.asarray(similarity(*rows))
    return scores.reshape(()) if np.ndim(embeddings1) == np.ndim(embeddings2) == 1 else scores
