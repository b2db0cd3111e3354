"""The NumPy engine: token ids -> token embeddings -> sentence embedding, in float32 and without JAX.

One function per kind of family; its file in encoders/ explains it and names its paper. numpy_layers.py has the layers; pooling
and the steps after it are those of the JAX engine. Importing JAX takes a second, in which a few texts are embedded here. The
weights stay in their file, mapped into memory, and are used where they are. Agrees with the JAX engine to 1e-6. Left out:
gradients, dropout, packed rows, bfloat16, other devices, poolings with weights.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minisbert.checkpoint import modules
from minisbert.checkpoint.convert import flatten, nest
from minisbert.checkpoint.families.mpnet import PADDING_ID
from minisbert.checkpoint.layer_settings import FULL, LOCAL
from minisbert.checkpoint.tensors import Columns, check_lengths, mapped_files
from minisbert.errors import InputError
from minisbert.inference.numpy_layers import (
    Attend,
    Norm,
    Params,
    Sight,
    activate,
    attention,
    disentangled,
    grouped_attention,
    layer_norm,
    linear,
    post_norm_block,
    pre_norm_block,
    relative_position_bias,
    rms_norm,
)
from minisbert.inference.stream import Compilation
from minisbert.model_config import Embeddings, ModelConfig, sentence_embedding, token_embeddings
from minisbert.pooling import weighted_layers
from minisbert.transformer.positions import offset_position_ids, rotary_angles

# --- the encoders: (parameters, config, token_ids_BL, mask_BL or None) -> hidden_TD, layer by layer ---------------------

Layers = Iterator[np.ndarray]


def bert(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """BERT, ELECTRA, ERNIE, ALBERT, DistilBERT: positions 0, 1, 2, ..."""
    position_LD = params["position_embedding"]["embedding"][: token_ids_BL.shape[1]]
    return post_norm(params, config, token_ids_BL, position_LD, Sight(token_ids_BL.shape, mask_BL))


def roberta(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """RoBERTa, XLM-R and CamemBERT: positions counted from the padding row."""
    position_BLD = params["position_embedding"]["embedding"][offset_position_ids(token_ids_BL, config.pad_token_id)]
    return post_norm(params, config, token_ids_BL, position_BLD, Sight(token_ids_BL.shape, mask_BL))


def mpnet(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """MPNet: RoBERTa's positions, and a score per head and distance."""
    position_BLD = params["position_embedding"]["embedding"][offset_position_ids(token_ids_BL, PADDING_ID)]
    bias_NQK = relative_position_bias(params, token_ids_BL.shape[1], config.relative_attention_num_buckets)
    return post_norm(params, config, token_ids_BL, position_BLD, Sight(token_ids_BL.shape, mask_BL, bias_NQK))


def rotary_bert(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """nomic_bert, GTE, jina v3: rotary positions in BERT's blocks."""
    L, width = token_ids_BL.shape[1], config.hidden_size // config.num_attention_heads
    angles = rotary_angles(L, width, config.rope_theta, factor=config.rope_factor)
    return post_norm(params, config, token_ids_BL, 0.0, Sight(token_ids_BL.shape, mask_BL, angles=angles))


def post_norm(
    params: Params, config: Any, token_ids_BL: np.ndarray, position_BLD: np.ndarray | float, sight: Sight
) -> Layers:
    """Norm(sum of the embeddings), in ALBERT and ELECTRA projected, then the blocks; ALBERT has one for all layers."""
    norm = partial(layer_norm, epsilon=config.layer_norm_eps)
    for name in ("segment_embedding", "task_embedding"):
        if name in params:
            position_BLD = position_BLD + params[name]["embedding"][0]
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    hidden_BLD += position_BLD
    hidden_TD = norm(hidden_BLD.reshape(-1, hidden_BLD.shape[2]), params["embedding_norm"])
    if "embedding_projection" in params:
        hidden_TD = linear(hidden_TD, params["embedding_projection"])
    attend = partial(attention, sight=sight, heads=config.num_attention_heads)
    return _post_norm_blocks(params, config, hidden_TD, attend, norm)


def _post_norm_blocks(params: Params, config: Any, hidden_TD: np.ndarray, attend: Attend, norm: Norm) -> Layers:
    yield hidden_TD
    for layer in range(config.num_hidden_layers):
        block = params["blocks"][layer % len(params["blocks"])]
        hidden_TD = post_norm_block(hidden_TD, block, attend, norm, config.hidden_act)
        yield hidden_TD


def deberta(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """DeBERTa-v2 and v3: BERT's blocks, whose scores also depend on an embedding of the distance."""
    norm, L = partial(layer_norm, epsilon=config.layer_norm_eps), token_ids_BL.shape[1]
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    for name, rows in (("position_embedding", L), ("segment_embedding", 1)):
        if name in params:
            hidden_BLD += params[name]["embedding"][:rows]
    hidden_TD = hidden_BLD.reshape(-1, hidden_BLD.shape[2])
    if "embedding_projection" in params:
        hidden_TD = linear(hidden_TD, params["embedding_projection"])
    attend = disentangled(params, config, Sight(token_ids_BL.shape, mask_BL))
    hidden_TD = norm(hidden_TD, params["embedding_norm"])
    return _post_norm_blocks(params, config, hidden_TD, attend, norm)


def modernbert(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """ModernBERT: rotary positions, windows, pre-norm blocks."""
    L, heads, reach = token_ids_BL.shape[1], config.num_attention_heads, config.local_attention // 2
    norm = partial(layer_norm, epsilon=config.norm_eps)
    hidden_TD = norm(params["token_embedding"]["embedding"][token_ids_BL.ravel()], params["embedding_norm"])
    angles = partial(rotary_angles, L, config.hidden_size // heads)
    full = Sight(token_ids_BL.shape, mask_BL, angles=angles(config.global_rope_theta))
    local = Sight(token_ids_BL.shape, mask_BL, angles=angles(config.local_rope_theta), back=reach, ahead=reach)
    attends = {kind: partial(attention, sight=sight, heads=heads) for kind, sight in ((FULL, full), (LOCAL, local))}
    layers = [attends[kind] for kind in config.layer_types]
    return pre_norm(params, hidden_TD, layers, norm, config.hidden_activation)


def qwen(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """Qwen3, Qwen2, Mistral and EuroBERT: grouped queries, causal or not."""
    norm = partial(rms_norm, epsilon=config.rms_norm_eps)
    angles = rotary_angles(token_ids_BL.shape[1], config.head_dim, config.rope_theta)
    attend = _grouped(config, norm, config.head_dim)
    layers = []
    for reach in config.windows:
        sight = Sight(token_ids_BL.shape, mask_BL, None, angles, reach, 0 if config.causal else reach)
        layers.append(partial(attend, sight=sight))
    hidden_TD = params["token_embedding"]["embedding"][token_ids_BL.ravel()]
    return pre_norm(params, hidden_TD, layers, norm, config.hidden_act)


def gemma(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """Gemma 3: scaled token embeddings, windows, norms whose scale is 1 plus the parameter."""
    norm = partial(rms_norm, epsilon=config.rms_norm_eps, offset=1.0)
    attend, attends = _grouped(config, norm, config.query_pre_attn_scalar), {}
    reach = config.sliding_window - 1 if config.causal else config.sliding_window // 2
    for kind, theta, far in ((FULL, config.global_rope_theta, None), (LOCAL, config.local_rope_theta, reach)):
        angles = rotary_angles(token_ids_BL.shape[1], config.head_dim, theta)
        sight = Sight(token_ids_BL.shape, mask_BL, None, angles, far, 0 if config.causal else far)
        attends[kind] = partial(attend, sight=sight)
    hidden_TD = params["token_embedding"]["embedding"][token_ids_BL.ravel()] * np.float32(config.hidden_size**0.5)
    return pre_norm(params, hidden_TD, [attends[kind] for kind in config.layer_types], norm, config.hidden_activation)


def t5(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """T5 and mT5: a score per head and distance, products that are not scaled."""
    norm, buckets = partial(rms_norm, epsilon=config.rms_norm_eps), config.relative_attention_num_buckets
    bias_NQK = relative_position_bias(params, token_ids_BL.shape[1], buckets, config.relative_attention_max_distance)
    sizes = {"key_heads": config.num_attention_heads, "head_width": config.head_dim, "scale": 1.0}
    attend = partial(grouped_attention, sight=Sight(token_ids_BL.shape, mask_BL, bias_NQK[:, None]), norm=norm, **sizes)
    hidden_TD = params["token_embedding"]["embedding"][token_ids_BL.ravel()]
    return pre_norm(params, hidden_TD, [attend] * config.num_hidden_layers, norm, config.hidden_act)


def _grouped(config: Any, norm: Norm, variance: float) -> Callable[..., np.ndarray]:
    sizes = {"key_heads": config.num_key_value_heads, "head_width": config.head_dim}
    return partial(grouped_attention, **sizes, scale=variance**-0.5, norm=norm)


def pre_norm(params: Params, hidden_TD: np.ndarray, attends: list[Any], norm: Norm, activation: str) -> Layers:
    """The blocks, each with its attention, and a norm at the end."""
    yield hidden_TD
    for layer, attend in enumerate(attends):
        hidden_TD = pre_norm_block(hidden_TD, params["blocks"][layer], attend, norm, activation)
        if layer + 1 == len(attends):
            norm(hidden_TD, params["final_norm"])
        yield hidden_TD


def static(params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray | None) -> Layers:
    """A table of vectors: each token's row."""
    yield params["token_embedding"]["embedding"][token_ids_BL.ravel()]


# `model_type` in config.json -> its encoder. A registered family without a row here is computed by JAX only.
ENCODERS: dict[str, Callable[..., Layers]] = {
    **dict.fromkeys(("bert", "electra", "ernie", "albert", "distilbert"), bert),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), roberta),
    "mpnet": mpnet,
    "deberta-v2": deberta,
    **dict.fromkeys(("nomic_bert", "new", "gte", "jina_embeddings_v3"), rotary_bert),
    "modernbert": modernbert,
    **dict.fromkeys(("qwen3", "qwen2", "mistral", "eurobert"), qwen),
    "gemma3_text": gemma,
    **dict.fromkeys(("t5", "mt5"), t5),
    "static": static,
}

# --- the modules with weights after it, as modules.py computes them -----------------------------------------------------


def _dense(settings: modules.Dense, params: Params, sentence_BD: np.ndarray) -> np.ndarray:
    dense_BE = activate(linear(sentence_BD, params["linear"]), settings.activation)
    if settings.residual:
        dense_BE += linear(sentence_BD, params["residual"]) if "residual" in params else sentence_BD
    return dense_BE


# Settings -> (settings, parameters, input) -> output
HEADS: dict[type, Callable[..., Any]] = {
    modules.WeightedLayerPooling: lambda given, params, hidden_IBLD: weighted_layers(
        hidden_IBLD[given.layer_start :], params["weights"]
    ),
    modules.Dense: _dense,
    modules.LayerNorm: lambda _, params, sentence_BD: layer_norm(sentence_BD.copy(), params["norm"], 1e-5),
}


def check_parts(config: ModelConfig) -> None:
    """NumPy computes all parts of the model.

    Raises:
        InputError: naming those that only JAX computes.
    """
    names = [config.model_type] * (config.model_type not in ENCODERS)
    known = (*HEADS, modules.Pooling, modules.Normalize)
    names += [type(module).__name__ for module in config.modules if type(module) not in known]
    if names:
        raise InputError(f"engine is 'numpy', which does not compute {' and '.join(names)}. Expected engine='jax'.")


class NumpyForward:
    """A model's outputs, as `compiled.Forward` gives them. Nothing is compiled: any batch shape is as good as another."""

    wait = None  # results are computed when they are returned

    def __init__(self, config: ModelConfig):
        self.config = config
        self.compilations: list[Compilation] = []
        self._with_weights = [module for module in config.modules if type(module) in HEADS]
        self._cast: tuple[Any, Params] = (None, {})

    def cast(self, params: Params) -> Params:
        """The parameters as NumPy arrays; those that were left in their files are."""
        if self._cast[0] is not params:
            flat = flatten(params)
            cast = {path: leaf if isinstance(leaf, Columns) else np.asarray(leaf) for path, leaf in flat.items()}
            self._cast, self._files = (params, nest(cast)), mapped_files(cast.values())
        return self._cast[1]

    def __call__(
        self, params: Params, output: str, token_ids_BL: np.ndarray, lengths_B: np.ndarray, prompt_length: int = 0
    ) -> Any:
        """One output of a batch, "sentence embeddings" or "token embeddings"; arguments as for `SentenceModel`."""
        params, config, (B, L) = self.cast(params), self.config, token_ids_BL.shape
        check_lengths(self._files)
        heads = [partial(HEADS[type(one)], one, params["heads"][row]) for row, one in enumerate(self._with_weights)]
        position_L = np.arange(L)
        mask_BL = position_L < lengths_B[:, None]
        real_BL = None if mask_BL.all() else mask_BL
        hidden_IBLD: list[np.ndarray] = []
        with np.errstate(over="ignore", invalid="ignore"):  # exp may overflow; what is not finite is found afterwards
            for hidden_TD in ENCODERS[config.model_type](params["encoder"], config.encoder, token_ids_BL, real_BL):
                if not config.pools_layers:
                    hidden_IBLD.clear()
                hidden_IBLD.append(hidden_TD.reshape(B, L, -1))
            token_BLD = token_embeddings(config.modules, heads, hidden_IBLD)
            after_prompt_BL = mask_BL & (position_L >= prompt_length)
            sentence_BD = sentence_embedding(config.modules, heads, token_BLD, mask_BL, after_prompt_BL)
        return Embeddings(token_BLD, sentence_BD) if output == "token embeddings" else sentence_BD
