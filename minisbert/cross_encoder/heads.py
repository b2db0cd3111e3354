"""Classification heads: the hidden vector of a pair's first token -> logits, for each encoder family that has one.

    logits = W tanh(W_d h_[CLS] + b_d) + b

Devlin et al. 2019, section 4.1, has one matrix on "the final hidden vector of [CLS]"; the dense layer before it (BERT's
pooler) is in the authors' code and in every checkpoint. The families differ in names and in dropout; `HEADS` lists them.
`reference/cross_encoder.py` is the same in NumPy and must agree.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.convert import Rule, linear
from minisbert.transformer.dropout import dropout, fold


class HeadFormat(NamedTuple):
    """How a family's ...ForSequenceClassification differs from the others."""

    architecture: str  # the class that config.json names
    separators: int  # how many separator tokens are between the two texts
    dense: str  # the name of the dense layer in a checkpoint
    output: str  # the name of the output layer
    passthrough: list[str]  # tensors next to the head that are kept but not computed
    dropout_first: bool  # dropout before the dense layer too
    classifier_dropout: (
        bool  # config.json's classifier_dropout sets the rate; otherwise it is that of the hidden layers
    )

    @property
    def rules(self) -> list[Rule]:
        """Where each tensor of the head goes; encoders/bert.py explains the table."""
        return linear(self.dense, "head.dense", "D,D") + linear(self.output, "head.output", "D,C")


# config.json's `model_type` -> the family's head.
HEADS = {
    "bert": HeadFormat(
        architecture="BertForSequenceClassification",
        separators=1,  # [CLS] A [SEP] B [SEP]: Devlin et al. 2019, section 3, figure 2
        dense="pooler.dense",
        output="classifier",
        passthrough=["embeddings.position_ids", "cls.*"],
        dropout_first=False,
        classifier_dropout=True,
    ),
    "mpnet": HeadFormat(
        architecture="MPNetForSequenceClassification",
        separators=2,  # <s> A </s> </s> B </s>, as in RoBERTa
        dense="classifier.dense",
        output="classifier.out_proj",
        passthrough=["embeddings.position_ids", "pooler.dense.*", "lm_head.*"],
        dropout_first=True,
        classifier_dropout=False,
    ),
}


class Head(nnx.Module):
    """Dense layer, tanh, dropout, output layer.

    Args:
        model_config: a CrossEncoderConfig.
        dtype: of the encoder; the head computes in float32 at least.
    """

    def __init__(self, model_config: Any, *, dtype: Any, rngs: nnx.Rngs):
        config, form = model_config.encoder, HEADS[model_config.model_type]
        init = nnx.initializers.normal(config.initializer_range)
        accum_dtype = jnp.promote_types(dtype, jnp.float32)
        width, rate = config.hidden_size, model_config.classifier_dropout
        self.dropout_rate = rate if form.classifier_dropout and rate is not None else config.hidden_dropout_prob
        self.dropout_first = form.dropout_first
        self.dense = nnx.Linear(width, width, dtype=accum_dtype, kernel_init=init, rngs=rngs)
        self.output = nnx.Linear(width, model_config.num_labels, dtype=accum_dtype, kernel_init=init, rngs=rngs)

    def __call__(self, first_BTD: jax.Array, keys_BT: jax.Array | None = None) -> jax.Array:
        """logits_BTC from the hidden vectors of first tokens, T pairs per row; one dropout key per pair."""
        if self.dropout_first:
            first_BTD = dropout(first_BTD, self.dropout_rate, fold(keys_BT, 0))
            keys_BT = fold(keys_BT, 1)
        return self.output(dropout(jnp.tanh(self.dense(first_BTD)), self.dropout_rate, keys_BT))
