"""The softmax classifier for pairs of sentences, from a model trained with the softmax loss (SBERT section 3, figure 1).

    softmax(W (u, v, |u - v|) + b)        u, v: the sentence embeddings of the pair

SBERT discards the head W, b after training and uses only the embeddings. minisbert saves it with the model, so that it can
classify pairs (NLI: entailment, neutral, contradiction) from two embeddings, even precomputed ones.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.arguments import as_pairs
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.training.pair_losses import softmax_logits
from minisbert.training.softmax_head import SoftmaxHead, read_head


class Predictions(NamedTuple):
    """The predicted class and the probabilities of B pairs."""

    labels: list[str]
    probabilities: np.ndarray  # [B, C], in the order of `SoftmaxClassifier.classes`


class SoftmaxClassifier:
    """A sentence encoder with the softmax head it was trained with; `SoftmaxClassifier.load` reads both."""

    def __init__(self, encoder: SentenceEncoder, head: SoftmaxHead):
        self.encoder, self.head, self.classes = encoder, head, head.classes

    @staticmethod
    def load(folder: str | Path) -> "SoftmaxClassifier":
        """Load the model from `final/` or `best/` of a training run with the softmax loss.

        Raises:
            ModelFolderError: there is no model, or no head with it.
        """
        encoder = SentenceEncoder(folder)
        return SoftmaxClassifier(encoder, read_head(Path(folder), encoder.model_config.dimension))

    def predict(
        self, pairs: Iterable[tuple[str, str]] | tuple[str, str], show_progress_bar: bool | None = None
    ) -> Predictions:
        """The class of each pair, of one or of several. Raises InputError: something else than pairs of texts."""
        both = self.encoder.encode(
            [text for pair in as_pairs(pairs)[0] for text in pair],
            show_progress_bar=show_progress_bar,
            truncate_dim=self.encoder.model_config.dimension,
        )
        head = {"kernel": jnp.asarray(self.head.kernel), "bias": jnp.asarray(self.head.bias)}
        logits_BC = softmax_logits(head, jnp.asarray(both[0::2]), jnp.asarray(both[1::2]), self.head.concatenation)
        probabilities = np.asarray(jax.nn.softmax(logits_BC))
        return Predictions([self.classes[c] for c in probabilities.argmax(axis=1)], probabilities)
