"""BERT with rotary positions (nomic, GTE, jina v3) in plain float64 NumPy, written from the papers.

    "Nomic Embed: Training a Reproducible Long Context Text Embedder"      Nussbaum et al. 2024
    "mGTE: Generalized Long-Context Text Representation and Reranking"     Zhang et al. 2024
    "jina-embeddings-v3: Multilingual Embeddings With Task LoRA"           Sturua et al. 2024

The parts are in reference/encoder.py and reference/modernbert.py. `encoders/rotary_bert.py` is tested against this.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, feed_forward, float64, layer_norm
from minisbert.reference.modernbert import gated_feed_forward, rotary_attention


def rotary_bert(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """BERT's blocks on token and segment embeddings, with rotated queries and keys in place of position embeddings.

    Arguments and result as for `reference.encoder.bert`.
    """
    params, epsilon = float64(params), config.layer_norm_eps
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    if "segment_embedding" in params:
        segment_ids_BL = np.zeros_like(token_ids_BL) if segment_ids_BL is None else segment_ids_BL
        hidden_BLD = hidden_BLD + params["segment_embedding"]["embedding"][segment_ids_BL]
    hidden_BLD = layer_norm(hidden_BLD, params["embedding_norm"], epsilon)
    angles = {"theta": config.rope_theta, "factor": config.rope_factor}
    for i in range(config.num_hidden_layers):
        block = params["blocks"][i]
        attended_BLD = rotary_attention(hidden_BLD, mask_BL, block["attention"], config.num_attention_heads, **angles)
        hidden_BLD = layer_norm(hidden_BLD + attended_BLD, block["attention_norm"], epsilon)
        if config.gated:
            fed_BLD = gated_feed_forward(hidden_BLD, block["feed_forward"], config.hidden_act, swapped=True)
        else:
            fed_BLD = feed_forward(hidden_BLD, block["feed_forward"], config.hidden_act)
        hidden_BLD = layer_norm(hidden_BLD + fed_BLD, block["feed_forward_norm"], epsilon)
    return hidden_BLD
