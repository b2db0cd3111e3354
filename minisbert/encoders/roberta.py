"""RoBERTa (Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding + segment embedding)      positions start after the padding row
    output = Block_layers(... Block_1(x))                                             BERT's blocks

XLM-R (Conneau et al. 2020) and CamemBERT (Martin et al. 2020) are the same encoder under other `model_type`s, with
other vocabularies. Unlike in BERT, positions are counted from `pad_token_id + 1`, so a table of 514 rows takes 512
tokens, and there is one segment in all published models. Left out: heads, pooler, decoders, relative positions.
`reference/encoder.py` is the same in NumPy and must agree.
"""

import jax

from minisbert.checkpoint.families.roberta import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.encoders import bert
from minisbert.transformer.positions import offset_position_ids


class Encoder(bert.Encoder):
    """BERT's, with other rows of the position table."""

    def position_ids(self, token_ids_BL: jax.Array, positions_BL: jax.Array | None) -> jax.Array:
        return offset_position_ids(token_ids_BL, self.config.pad_token_id, positions_BL)
