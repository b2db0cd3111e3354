"""One sentence through the model, step by step, as one HTML page: real numbers, their shapes, the line of code of each.

    save_follow("follow.html", follow(encoder, "a man eats"), follow(encoder, "someone has a meal"), "all-MiniLM-L6-v2")

The steps are those of the package: text -> tokens -> embeddings with positions -> attention -> block -> pooling -> vector
-> cosine (SBERT section 3, figure 2). A line of code is looked up in the source when the page is made, so it is always the one
that runs. The page needs no network; what page.py says of its tables and of untrusted texts holds here too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.checkpoint.modules import Pooling
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError
from minisbert.explain.attention import Attention, sentence_attention
from minisbert.explain.attribution import pooled_tokens
from minisbert.explain.page import MAX_TOKENS, attention_part, bdi, filled, number_cell, shade, write_page
from minisbert.inference.batching import rectangle
from minisbert.pooling import pool
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import SentenceModel, define
from minisbert.transformer.block import Block

SHOWN = 8  # numbers of each vector


class Trace(NamedTuple):
    """All that is computed between a text and its embedding; L tokens, Y layers."""

    text: str
    ids: tuple[int, ...]
    token_LD: np.ndarray  # rows of the token table (of width E for ALBERT)
    summed_LD: np.ndarray  # with positions and segments
    normed_LD: np.ndarray  # after the layer norm
    attended_YLD: np.ndarray  # each block after attention, shortcut and layer norm
    hidden_ILD: np.ndarray  # the input of the first block, then the output of each
    attention: Attention
    pooled_D: np.ndarray
    sentence_D: np.ndarray  # what `encode` returns


def follow(encoder: SentenceEncoder, text: str) -> Trace:
    """Run one text and record every step.

    Raises:
        InputError: a model whose blocks are not post-norm transformer layers, or a text of more than 64 tokens.

    Example:
        >>> trace = follow(SentenceEncoder.load("weights/tiny-bert"), "a cat")
        >>> trace.hidden_ILD.shape, trace.sentence_D.shape
        ((3, 4, 32), (32,))
    """
    attention = sentence_attention(encoder, text)
    encoder = encoder.route()
    (output,) = encoder.encode([text], output_value=None)
    ids = tuple(int(id) for id in output["input_ids"])
    if len(ids) > MAX_TOKENS:
        raise InputError(f"text has {len(ids)} tokens. Expected at most {MAX_TOKENS} to follow; shorten it.")
    batch = rectangle([(0, ids)], 1, len(ids), encoder.padding_id)
    definition, _ = define(encoder.model_config)
    if not all(isinstance(block, Block) for block in nnx.merge(definition, encoder.params).encoder.blocks):
        raise InputError(
            f"{encoder.model_config.model_type} has pre-norm blocks, which this page does not draw. Expected a model with "
            "BERT's blocks: bert, mpnet, roberta, distilbert or albert."
        )
    pooling = next((module for module in encoder.model_config.modules if isinstance(module, Pooling)), None)
    if pooling is None:
        raise InputError(
            "the model's pooling has weights of its own, which this page does not draw. Use another model."
        )
    pooled_BL = pooled_tokens(encoder, pooling, len(ids))[None]
    model = nnx.merge(definition, encoder.params)
    steps = [np.asarray(x)[0] for x in _recorded(model, pooling, batch.token_ids_BL, pooled_BL)]
    token_LD, summed_LD, normed_LD, pooled_D, *layers = steps
    count = len(layers) // 2
    stacked = np.stack(layers[:count]), np.stack(layers[count:])
    return Trace(text, ids, token_LD, summed_LD, normed_LD, *stacked, attention, pooled_D, output["sentence_embedding"])


def _recorded(
    model: SentenceModel, pooling: Pooling, token_ids_BL: np.ndarray, pooled_BL: np.ndarray
) -> list[jax.Array]:
    """Token rows, their sum with positions, its layer norm, the pooled vector; then each block half way, and each layer."""
    seen: list[jax.Array] = []
    attended: list[jax.Array] = []
    encoder, mask_BL = model.encoder, jnp.ones(token_ids_BL.shape, bool)
    encoder.embedding_norm = _Recorded(encoder.embedding_norm, seen, seen)
    for block in encoder.blocks:  # ALBERT has one block, which runs once per layer
        block.attention_norm = _Recorded(block.attention_norm, None, attended)
    with jax.default_matmul_precision("highest"):
        hidden_IBLD = encoder(jnp.asarray(token_ids_BL), mask_BL)
        token_BLD = model.heads[0](hidden_IBLD) if model.model_config.pools_layers else hidden_IBLD[-1]
    pooled_BD = pool(token_BLD, jnp.asarray(pooled_BL), pooling.modes)
    return [encoder.token_embedding(jnp.asarray(token_ids_BL)), *seen, pooled_BD, *attended, *hidden_IBLD]


class _Recorded:
    """A module that records its input and its output."""

    def __init__(self, module: Any, inputs: list[jax.Array] | None, outputs: list[jax.Array]):
        self.module, self.inputs, self.outputs = module, inputs, outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.inputs is not None:
            self.inputs.append(x)
        self.outputs.append(self.module(x))
        return self.outputs[-1]


# --- the page -----------------------------------------------------------------------------------------------------------


def save_follow(out: str, a: Trace, b: Trace, model: str, model_type: str) -> None:
    """Write the page; the file appears whole or not at all."""
    (L, D), (Y, N) = a.hidden_ILD.shape[1:], a.attention.weights_YNQK.shape[:2]
    u_D, v_D = a.sentence_D.astype(np.float64), b.sentence_D.astype(np.float64)
    cosine = float(u_D @ v_D) / max(float(np.linalg.norm(u_D) * np.linalg.norm(v_D)), 1e-12)
    pooled: tuple[tuple[str, ...], np.ndarray] = (("embedding",), a.sentence_D[None])
    if len(a.pooled_D) == len(a.sentence_D):  # no Dense module that changes the width
        pooled = (("pooled", "embedding"), np.stack([a.pooled_D, a.sentence_D]))
    module = FAMILIES[model_type].Encoder.__call__.__module__  # of BERT where the family computes as BERT does
    family = module.removeprefix("minisbert.").replace(".", "/") + ".py"
    rows = a.attention.tokens
    layers = "".join(
        f"<details{' open' * (y == Y - 1)}><summary>Layer {y + 1} of {Y}</summary>"
        + _vectors(rows, a.attended_YLD[y], f"Layer {y + 1}: layer norm of x + attention(x)")
        + _vectors(rows, a.hidden_ILD[y + 1], f"Layer {y + 1}: layer norm of that + feed-forward(that)")
        + "</details>"
        for y in range(Y)
    )
    page = filled(
        "follow.html",
        model=bdi(model),
        text_a=bdi(a.text),
        text_b=bdi(b.text),
        L=L,
        D=D,
        E=a.token_LD.shape[1],
        N=N,
        H=D // N,
        Y=Y,
        SHOWN=min(SHOWN, D),
        tokens="".join(f"<li>{bdi(token)} <small>{id}</small></li>" for token, id in zip(rows, a.ids, strict=True)),
        token_rows=_vectors(rows, a.token_LD, "Token embeddings"),
        position_rows=_vectors(rows, a.summed_LD - a.token_LD, "What is added for each position"),
        normed_rows=_vectors(rows, a.normed_LD, "Their sum after the layer norm"),
        attention=attention_part({"text A": a.attention, "text B": b.attention}),
        layers=layers,
        pooled=_vectors(*pooled, "Pooling"),
        norm=f"{np.linalg.norm(a.pooled_D):.4f}",
        both=_vectors(("u, of A", "v, of B"), np.stack([u_D, v_D]), "u and v")
        + _vectors(("u × v",), (u_D * v_D)[None], "Their products", ("sum", np.sum)),
        cosine=f"{cosine:.6f}",
        code_tokens=_code("text/tokenizer.py", "self.backend.encode_batch_fast(texts"),
        code_token=_code(family, "= embedding_table(config.vocab_size,"),
        code_sum=_code(family, "self.token_embedding(token_ids_BL)"),
        code_heads=_code("transformer/attention.py", "query_BNLH, key_BNLH, value_BNLH = split_heads("),
        code_scores=_code("transformer/attention.py", 'scores_BNQK = product("BNQH,BNKH->BNQK"'),
        code_values=_code("transformer/attention.py", 'context_BNQH = product("BNQK,BNKH->BNQH"'),
        code_attended=_code("transformer/block.py", "attended_BLD = self.attention(hidden_BLD"),
        code_fed=_code("transformer/block.py", "self.activation(self.up(hidden_BLD))"),
        code_pool=_code("pooling.py", "return _sum(hidden_BLD, mask_BL) / _count("),
        code_normal=_code("similarity.py", "return sentence_BD / xp.maximum(norm_B1"),
        code_cosine=_code("similarity.py", "return unit(a_BD) @ unit(b_MD).T"),
    )
    write_page(out, page)


def _code(file: str, part: str) -> str:
    """The one line of a file of this package that contains `part`, and where it is."""
    lines = (Path(__file__).parents[1] / file).read_text(encoding="utf-8").splitlines()
    ((number, line),) = [(i, line.strip()) for i, line in enumerate(lines, start=1) if part in line]
    return f'<p class="code"><code>{bdi(line)}</code> <small>minisbert/{file}, line {number}</small></p>'


def _vectors(
    names: tuple[str, ...],
    rows_LD: np.ndarray,
    label: str,
    last: tuple[str, Callable[[np.ndarray], Any]] = ("length", np.linalg.norm),
) -> str:
    """A table: a row per vector, its first numbers, and a number of all of them."""
    of_all, number = last
    shown_LD = rows_LD[:, :SHOWN]
    largest = max(float(abs(shown_LD).max()), 1e-12)
    heads = "".join(f'<th scope="col">{i}</th>' for i in range(shown_LD.shape[1]))
    body = []
    for i, (name, row_D) in enumerate(zip(names, rows_LD, strict=True)):
        cells = [
            number_cell(value, shade(value / largest), f"{name}, dimension {j}", focus=i == j == 0)
            for j, value in enumerate(row_D[:SHOWN].tolist())
        ]
        cells.append(number_cell(float(number(row_D)), "sum", f"{name}, {of_all}"))
        body.append(f'<tr><th scope="row">{bdi(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table role="grid" aria-label="{label}"><caption>{label}: '
        f"{len(rows_LD)} × {rows_LD.shape[1]}, the first {shown_LD.shape[1]} columns and the {of_all}</caption>"
        f'<thead><tr><td></td>{heads}<th scope="col" class="sum">{of_all}</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
