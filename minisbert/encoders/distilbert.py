"""DistilBERT (Sanh et al. 2019, "DistilBERT, a distilled version of BERT"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding)        section 2: BERT without segments and pooler
    output = Block_layers(... Block_1(x))                           BERT's blocks, half as many

config.json and the weights have names of their own. Left out: distillation, heads, sinusoidal positions that are not
trained. In training, dropout is where BERT has it (transformers omits the one after the attention).
`reference/encoder.py` is the same in NumPy and must agree.
"""

from minisbert.checkpoint.families.distilbert import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.encoders.bert import Encoder  # noqa: F401
