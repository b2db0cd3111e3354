"""A SentenceEncoder as the embedding model of LangChain, LlamaIndex, BERTopic, KeyBERT, Haystack, scikit-learn or Chroma, or
as a model for sentence-transformers' evaluators and utilities.

    from minisbert import SentenceEncoder, compat
    embeddings = compat.langchain(SentenceEncoder("all-MiniLM-L6-v2"))     # FAISS.from_texts(texts, embeddings)

Queries go through `encode_query` and documents through `encode_document` where the library tells them apart, so that a model
with prompts gets the right one. Options are those of `encode`. The libraries are imported when a function is called.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import numpy as np

from minisbert.errors import InputError


@contextmanager
def _needs(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(f"{package} cannot be imported ({error}). Run `pip install {package}`.") from None


def langchain(encoder: Any, **options: Any) -> Any:
    """An `Embeddings` for LangChain's vector stores and retrievers."""
    with _needs("langchain-core"):
        from langchain_core.embeddings import Embeddings

    class MinisbertEmbeddings(Embeddings):  # type: ignore[misc]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return encoder.encode_document(texts, **options).tolist()

        def embed_query(self, text: str) -> list[float]:
            return encoder.encode_query(text, **options).tolist()

    return MinisbertEmbeddings()


def llama_index(encoder: Any, **options: Any) -> Any:
    """A `BaseEmbedding` for LlamaIndex: `Settings.embed_model = compat.llama_index(encoder)`."""
    with _needs("llama-index-core"):
        from llama_index.core.embeddings import BaseEmbedding

    class MinisbertEmbedding(BaseEmbedding):  # type: ignore[misc]
        def _get_query_embedding(self, query: str) -> list[float]:
            return encoder.encode_query(query, **options).tolist()

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return encoder.encode_document(texts, **options).tolist()

    return MinisbertEmbedding(model_name="minisbert")


def bertopic(encoder: Any, **options: Any) -> Any:
    """A backend for BERTopic: `BERTopic(embedding_model=compat.bertopic(encoder))`."""
    with _needs("bertopic"):
        from bertopic.backend import BaseEmbedder
    return _embedder(BaseEmbedder, encoder, options)


def keybert(encoder: Any, **options: Any) -> Any:
    """A backend for KeyBERT: `KeyBERT(model=compat.keybert(encoder))`."""
    with _needs("keybert"):
        from keybert.backend import BaseEmbedder
    return _embedder(BaseEmbedder, encoder, options)


def _embedder(base: Any, encoder: Any, options: dict[str, Any]) -> Any:
    class MinisbertBackend(base):  # type: ignore[misc]
        def embed(self, documents: Any, verbose: bool = False) -> np.ndarray:
            shown = {"show_progress_bar": verbose or None, **options}
            return encoder.encode(list(documents), **shown)

    return MinisbertBackend(embedding_model=encoder)


def haystack_text(encoder: Any, **options: Any) -> Any:
    """A component for queries in a Haystack pipeline: `text` in, `embedding` out."""
    with _needs("haystack-ai"):
        from haystack import component

    @component
    class MinisbertTextEmbedder:
        @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
        def run(self, text: str) -> dict[str, Any]:
            return {"embedding": encoder.encode_query(text, **options).tolist()}

    return MinisbertTextEmbedder()


def haystack_documents(encoder: Any, **options: Any) -> Any:
    """A component for documents in a Haystack pipeline: it returns them with their `embedding`."""
    with _needs("haystack-ai"):
        from haystack import Document, component

    @component
    class MinisbertDocumentEmbedder:
        @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
        def run(self, documents: list[Document]) -> dict[str, Any]:
            rows = encoder.encode_document([one.content or "" for one in documents], **options).tolist()
            pairs = zip(documents, rows, strict=True)
            return {
                "documents": [
                    Document.from_dict({**one.to_dict(flatten=False), "embedding": row}) for one, row in pairs
                ]
            }

    return MinisbertDocumentEmbedder()


def scikit_learn(encoder: Any, **options: Any) -> Any:
    """A transformer of texts to embeddings: `make_pipeline(compat.scikit_learn(encoder), LogisticRegression())`."""
    with _needs("scikit-learn"):
        from sklearn.preprocessing import FunctionTransformer
    return FunctionTransformer(_encode, kw_args={"encoder": encoder, "options": options})


def _encode(texts: Any, encoder: Any, options: dict[str, Any]) -> np.ndarray:
    return encoder.encode(texts, **options)


def chroma(encoder: Any, **options: Any) -> Any:
    """An `EmbeddingFunction`: `client.create_collection("notes", embedding_function=compat.chroma(encoder))`."""
    with _needs("chromadb"):
        from chromadb import EmbeddingFunction

    class MinisbertEmbeddingFunction(EmbeddingFunction):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def __call__(self, input: list[str]) -> Any:
            return list(encoder.encode_document(input, **options))

        def embed_query(self, input: list[str]) -> Any:
            return list(encoder.encode_query(input, **options))

        @staticmethod
        def name() -> str:
            return "minisbert"

        def get_config(self) -> dict[str, Any]:
            return {}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Any:
            raise InputError(
                "a collection stores no model. Pass embedding_function=compat.chroma(encoder) when opening it."
            )

    return MinisbertEmbeddingFunction()


class TorchEncoder:
    """An encoder whose embeddings and similarities are torch tensors where sentence-transformers would return them.

    Everything else is the encoder's; `model_card_data`, where evaluators put their results, keeps nothing.
    """

    def __init__(self, encoder: Any, tensor: Callable[[np.ndarray], Any], device: Any, options: dict[str, Any]):
        self.encoder, self.tensor, self.device, self.options = encoder, tensor, device, options
        self.model_card_data = SimpleNamespace(set_evaluation_metrics=_forget)

    def eval(self) -> "TorchEncoder":
        """Nothing changes: dropout belongs to training."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "encoder":  # not there yet: an object that is being copied
            raise AttributeError(name)
        return getattr(self.encoder, name)

    def _embed(
        self,
        method: str,
        sentences: Any,
        *args: Any,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **keywords: Any,
    ) -> Any:
        if keywords.get("precision", "") is None:  # as evaluators say "unchanged"
            del keywords["precision"]
        rows = getattr(self.encoder, method)(sentences, *args, **{**keywords, **self.options})
        if not isinstance(rows, np.ndarray):  # of single tokens
            return [self.tensor(row.copy()) if isinstance(row, np.ndarray) else row for row in rows]
        if convert_to_tensor or (rows.ndim == 1 and not convert_to_numpy):
            return self.tensor(rows)
        return rows if convert_to_numpy else [self.tensor(row) for row in rows]

    def predict(self, *args: Any, convert_to_tensor: bool = False, **keywords: Any) -> Any:
        """The scores of a CrossEncoder, with the options that are given here."""
        scores = self.encoder.predict(*args, **{**keywords, **self.options})
        return self.tensor(np.asarray(scores)) if convert_to_tensor else scores

    def rank(self, *args: Any, **keywords: Any) -> Any:
        """The ranking of a CrossEncoder, with the options that are given here."""
        return self.encoder.rank(*args, **{**keywords, **self.options})

    encode = partialmethod(_embed, "encode")
    encode_query = partialmethod(_embed, "encode_query")
    encode_document = partialmethod(_embed, "encode_document")

    def _compare(self, method: str, a: Any, b: Any) -> Any:
        # NumPy takes neither tensors with a gradient nor bfloat16.
        arrays = (x.detach().float().cpu() if hasattr(x, "detach") else x for x in (a, b))
        return self.tensor(getattr(self.encoder, method)(*map(np.asarray, arrays)))

    similarity = partialmethod(_compare, "similarity")
    similarity_pairwise = partialmethod(_compare, "similarity_pairwise")


def _forget(*result: Any) -> None:
    """Take an evaluator's result and keep nothing; a lambda could not be pickled with the wrapper."""


def sentence_transformers(encoder: Any, **options: Any) -> TorchEncoder:
    """A model for sentence-transformers' evaluators: `evaluator(compat.sentence_transformers(encoder))`.

    Args:
        encoder: a SentenceEncoder or a CrossEncoder.
        options: for every call of `encode`, or of `predict` and `rank`; where an evaluator passes the same keyword, the one
            given here counts.
    """
    with _needs("torch"):
        from torch import device, from_numpy
    return TorchEncoder(encoder, from_numpy, device("cpu"), options)  # where the tensors are
