"""Classification heads: the token embeddings of a pair -> logits, for each encoder family that has one.

    logits = W Norm(activation(W_d h + b_d)) + b        h the first token's hidden vector, or the mean of all

Devlin et al. 2019, section 4.1, has one matrix on "the final hidden vector of [CLS]"; the dense layer before it (BERT's
pooler) is in the authors' code and in every checkpoint. The families differ in names, activation and dropout; only
ModernBERT has the norm and may take the mean. `HEADS` lists them. `reference/cross_encoder.py` is the same in NumPy and must
agree.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.convert import Rule, linear
from minisbert.checkpoint.settings import Settings
from minisbert.modules import ACTIVATIONS as SIMPLE
from minisbert.transformer.block import ACTIVATIONS as GELUS
from minisbert.transformer.block import layer_norm
from minisbert.transformer.dropout import dropout, fold

ACTIVATIONS = {**SIMPLE, **GELUS}


@dataclass(frozen=True)
class HeadConfig:
    """What a head computes, in this order."""

    pooling: str = "cls"  # of pooling.POOLINGS; model.py does it
    dropout_before: float = 0.0
    dense_bias: bool = True
    activation: str = "tanh"
    norm_epsilon: float | None = None  # None: no norm
    dropout_after: float = 0.0


class HeadFormat(NamedTuple):
    """How a family's ...ForSequenceClassification differs from the others."""

    architecture: str  # the class that config.json names
    dense: str  # the name of the dense layer in a checkpoint
    output: str  # the name of the output layer
    passthrough: list[str]  # tensors next to the head that are kept but not computed
    read: Callable[[Settings, Any], HeadConfig]  # config.json and the encoder's Config -> the head
    norm: str = ""  # the name of the norm
    in_encoder: bool = False  # the dense layer is the encoder's own pooler, under the family's prefix

    def rules(self, head: HeadConfig) -> list[Rule]:
        """Where each tensor of the head goes; checkpoint/families/bert.py explains the table."""
        dense = linear(self.dense, "head.dense", "D,D")
        norm = [Rule(f"{self.norm}.weight", "head.norm.scale", "D")] if head.norm_epsilon is not None else []
        return [*(dense if head.dense_bias else dense[:1]), *norm, *linear(self.output, "head.output", "D,C")]


def _rate(settings: Settings, key: str, default: float) -> float:
    """A dropout rate of config.json; null is as good as missing."""
    given = settings.values.get(key) is not None
    return settings.size(key, bounds=(0, 1.0)) if given else default


def _roberta(settings: Settings, encoder: Any) -> HeadConfig:
    rate = _rate(settings, "classifier_dropout", encoder.hidden_dropout_prob)
    return HeadConfig(dropout_before=rate, dropout_after=rate)


def _mpnet(settings: Settings, encoder: Any) -> HeadConfig:
    _rate(settings, "classifier_dropout", 0.0)  # unused, as in transformers, but a wrong value is a wrong file
    rate = encoder.hidden_dropout_prob
    return HeadConfig(dropout_before=rate, dropout_after=rate)


def _modernbert(settings: Settings, encoder: Any) -> HeadConfig:
    return HeadConfig(
        pooling=settings.choice("classifier_pooling", ["cls", "mean"], default="cls"),
        dense_bias=settings.flag("classifier_bias", default=False),
        activation=settings.choice("classifier_activation", GELUS, default="gelu"),
        norm_epsilon=encoder.norm_eps,
        dropout_after=_rate(settings, "classifier_dropout", 0.0),
    )


def _deberta(settings: Settings, encoder: Any) -> HeadConfig:
    return HeadConfig(
        dropout_before=_rate(settings, "pooler_dropout", 0.0),
        activation=settings.choice("pooler_hidden_act", GELUS, default="gelu"),
        dropout_after=_rate(settings, "cls_dropout", encoder.hidden_dropout_prob),
    )


_BERT = HeadFormat(
    architecture="BertForSequenceClassification",
    dense="pooler.dense",
    output="classifier",
    passthrough=["embeddings.position_ids", "cls.*"],
    read=lambda given, encoder: HeadConfig(
        dropout_after=_rate(given, "classifier_dropout", encoder.hidden_dropout_prob)
    ),
    in_encoder=True,
)
_ROBERTA = HeadFormat(
    architecture="RobertaForSequenceClassification",
    dense="classifier.dense",
    output="classifier.out_proj",
    passthrough=["embeddings.position_ids", "pooler.dense.*", "lm_head.*"],
    read=_roberta,
)
# config.json's `model_type` -> the family's head.
HEADS = {
    "bert": _BERT,
    "ernie": _BERT._replace(architecture="ErnieForSequenceClassification"),
    "new": _BERT._replace(architecture="NewForSequenceClassification", passthrough=["lm_head.*"]),
    "gte": _BERT._replace(architecture="GteForSequenceClassification", passthrough=["lm_head.*"]),
    "electra": _ROBERTA._replace(
        architecture="ElectraForSequenceClassification",
        passthrough=["embeddings.position_ids", "discriminator_predictions.*", "generator_*"],
        read=lambda given, encoder: replace(_roberta(given, encoder), activation="gelu"),
    ),
    "mpnet": _ROBERTA._replace(architecture="MPNetForSequenceClassification", read=_mpnet),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA._replace(architecture="XLMRobertaForSequenceClassification"),
    "camembert": _ROBERTA._replace(architecture="CamembertForSequenceClassification"),
    "distilbert": HeadFormat(
        architecture="DistilBertForSequenceClassification",
        dense="pre_classifier",
        output="classifier",
        passthrough=["embeddings.position_ids", "vocab_*"],
        read=lambda given, _: HeadConfig(activation="relu", dropout_after=_rate(given, "seq_classif_dropout", 0.2)),
    ),
    "albert": HeadFormat(
        architecture="AlbertForSequenceClassification",
        dense="pooler",
        output="classifier",
        passthrough=["embeddings.position_ids", "predictions.*", "sop_classifier.*"],
        read=lambda given, _: HeadConfig(dropout_after=_rate(given, "classifier_dropout_prob", 0.1)),
        in_encoder=True,
    ),
    "deberta-v2": HeadFormat(
        architecture="DebertaV2ForSequenceClassification",
        dense="pooler.dense",
        output="classifier",
        passthrough=["embeddings.position_ids", "embeddings.position_embeddings.*", "cls.*", "*_predictions.*"],
        read=_deberta,
    ),
    "modernbert": HeadFormat(
        architecture="ModernBertForSequenceClassification",
        dense="head.dense",
        norm="head.norm",
        output="classifier",
        passthrough=["decoder.*"],
        read=_modernbert,
    ),
}


class Head(nnx.Module):
    """Dense layer, activation, norm, output layer, on the pooled vector of a pair.

    Args:
        model_config: a CrossEncoderConfig.
        dtype: of the encoder; the head computes in float32 at least.
    """

    def __init__(self, model_config: Any, *, dtype: Any, rngs: nnx.Rngs):
        config, self.config = model_config.encoder, model_config.head
        init = nnx.initializers.normal(config.initializer_range)
        accum_dtype = jnp.promote_types(dtype, jnp.float32)
        width = config.hidden_size
        self.dense = nnx.Linear(
            width, width, use_bias=self.config.dense_bias, dtype=accum_dtype, kernel_init=init, rngs=rngs
        )
        epsilon = self.config.norm_epsilon
        self.norm = None if epsilon is None else layer_norm(width, epsilon, dtype, rngs, use_bias=False)
        self.output = nnx.Linear(width, model_config.num_labels, dtype=accum_dtype, kernel_init=init, rngs=rngs)

    def __call__(self, pooled_BTD: jax.Array, keys_BT: jax.Array | None = None) -> jax.Array:
        """logits_BTC from the pooled vectors of T pairs per row; one dropout key per pair."""
        config = self.config
        if config.dropout_before:
            pooled_BTD = dropout(pooled_BTD, config.dropout_before, fold(keys_BT, 0))
            keys_BT = fold(keys_BT, 1)
        x_BTD = ACTIVATIONS[config.activation](self.dense(pooled_BTD))
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return self.output(dropout(x_BTD, config.dropout_after, keys_BT))
