"""TSDAE's loss in plain float64 NumPy, with BERT as encoder and decoder (Wang et al. 2021, section 3).

Left out: gradients, deleting tokens.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import (
    ACTIVATIONS,
    Params,
    feed_forward,
    float64,
    layer_norm,
    linear,
    multi_head_self_attention,
    softmax,
)


def denoising_auto_encoder(
    sentence_BD: np.ndarray, encoder: Params, head: Params, config: Any, token_ids: list[list[int]]
) -> float:
    """The mean over all tokens but the first of -log p(token | tokens before it, sentence embedding).

    Args:
        sentence_BD: of the damaged texts.
        encoder: BERT's parameters, which are the decoder's too.
        head: cross-attention of each block ("cross"), and what makes logits ("transform", "norm", "bias").
        token_ids: of the whole texts.
    """
    encoder, head, epsilon = float64(encoder), float64(head), config.layer_norm_eps
    embed, losses = encoder["token_embedding"]["embedding"], []
    for sentence_D, ids in zip(sentence_BD, token_ids, strict=True):
        L = len(ids) - 1
        # A token sees itself and those before it.
        later_QK = np.arange(L)[None, :] > np.arange(L)[:, None]
        bias_NQK = np.broadcast_to(np.where(later_QK, -1e30, 0.0), (config.num_attention_heads, L, L))
        hidden_1LD = embed[ids[:-1]] + encoder["segment_embedding"]["embedding"][0]
        hidden_1LD = (hidden_1LD + encoder["position_embedding"]["embedding"][:L])[None]
        hidden_1LD = layer_norm(hidden_1LD, encoder["embedding_norm"], epsilon)
        for i in range(config.num_hidden_layers):
            block, cross = encoder["blocks"][i], head["cross"][i]
            attended_1LD = multi_head_self_attention(
                hidden_1LD, np.ones((1, L), bool), block["attention"], config.num_attention_heads, bias_NQK
            )
            hidden_1LD = layer_norm(hidden_1LD + attended_1LD, block["attention_norm"], epsilon)
            # There is one key, so every query gives it the weight 1, and all heads together take its whole value.
            context_D = linear(linear(sentence_D, cross["value"]), cross["output"])
            hidden_1LD = layer_norm(hidden_1LD + context_D, cross["norm"], epsilon)
            fed_1LD = feed_forward(hidden_1LD, block["feed_forward"], config.hidden_act)
            hidden_1LD = layer_norm(hidden_1LD + fed_1LD, block["feed_forward_norm"], epsilon)
        made_LD = ACTIVATIONS[config.hidden_act](linear(hidden_1LD[0], head["transform"]))
        logits_LV = layer_norm(made_LD, head["norm"], epsilon) @ embed.T + head["bias"]
        losses += [-np.log(softmax(logits_V)[token]) for logits_V, token in zip(logits_LV, ids[1:], strict=True)]
    return float(np.mean(losses))
