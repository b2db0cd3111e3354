"""How folders store BERTs with rotary positions: nomic, GTE, jina v3. `encoders/rotary_bert.py` computes them.

    "nomic_bert"             nomic-embed-text (Nussbaum et al. 2024), snowflake-arctic-embed-m-long, CodeRankEmbed
    "new", "gte"             gte-*-v1.5 and mGTE (Zhang et al. 2024), snowflake-arctic-embed-m-v2.0
    "jina_embeddings_v3"     jina-embeddings-v3 (Sturua et al. 2024) in transformers' layout; task_adapters.py reads the first

The first two come from remote code, of which nothing is run. nomic's config.json has names of GPT-2, transformers 5, or both.
"""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, matrix, norm
from minisbert.checkpoint.layer_settings import stretched_base
from minisbert.checkpoint.settings import ACTIVATIONS, Settings

# nomic's older names -> those of transformers 5.
_NOMIC_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
}
# Settings of nomic's remote code that must have these values, the first where the file has none.
_NOMIC_ONLY: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("prenorm", "parallel_block", "use_rms_norm", "causal", "rotary_emb_interleaved"), (False,)),
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "scale_attn_by_inverse_layer_idx"), (False,)),
    "scale_attn_weights": (True,),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_scale_base": (None,),
    **dict.fromkeys(("num_experts", "moe_every_n_layers"), (0, None)),
}
_GTE_ONLY = {"layer_norm_type": "layer_norm", "pack_qkv": True, "logn_attention_scale": False}


@dataclass(frozen=True)
class Config:
    """The settings of the three layouts, under the names of transformers 5."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int  # 0: no segments
    gated: bool  # the feed-forward net
    use_bias: bool  # of the attention, and of the feed-forward net where it is not the gate
    inner_dropout: bool  # of the feed-forward net's inner values, too
    rope_theta: float
    rope_factor: float
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    stretches: bool = False  # positions of a text that is longer than `max_position_embeddings`

    @property
    def max_positions(self) -> int:
        """The longest input in tokens: rotary positions have no end, unless longer texts are stretched."""
        return self.max_position_embeddings if self.stretches else limits.TOKENS

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        kind = settings.choice("model_type", ["nomic_bert", "new", "gte", "jina_embeddings_v3"])
        return {"nomic_bert": _nomic, "jina_embeddings_v3": _jina}.get(kind, _gte)(settings)


def _nomic(settings: Settings) -> Config:
    if "n_embd" in settings.values:
        settings.rename(_NOMIC_NAMES)
    values = settings.values
    for key, allowed in _NOMIC_ONLY.items():
        settings.choice(key, allowed, default=allowed[0], why="no published model but nomic's mixture of experts")
    gates = {"swiglu": "silu", "geglu": "gelu"}
    named = "activation_function" in values
    gate = gates[settings.choice("activation_function", gates)] if named else "silu"
    activation = settings.choice("hidden_act", ACTIVATIONS, default=gate)
    if named and activation != gate:
        settings.complain("hidden_act", f"{gate!r}, as 'activation_function' has it")
    # "n_positions" is how many there are, "max_position_embeddings" next to it how many were trained.
    longest = "n_positions" if values.get("n_positions") is not None else "max_position_embeddings"
    positions = settings.size(longest)
    stretches = values.get("rotary_scaling_factor") is not None
    if stretches:
        # Longer texts would be stretched by the length of the longest one in their batch.
        positions = min(positions, settings.size("max_trained_positions", 2048))
    return _read(
        settings,
        ("rotary_emb_base", 1000.0),
        remote_code=("modeling_hf_nomic_bert.NomicBert",),
        max_position_embeddings=positions,
        stretches=stretches,
        type_vocab_size=settings.size("type_vocab_size", 2, (0, limits.SEGMENTS)),
        gated=True,
        use_bias=False,
        inner_dropout=False,
        hidden_act=activation,
        usual_inner="n_inner" in values and values["intermediate_size"] is None,
    )


def _gte(settings: Settings) -> Config:
    for key, only in _GTE_ONLY.items():
        settings.choice(key, [only], default=only, why="no published model has others")
    return _read(
        settings,
        ("rope_theta", 160_000.0 if settings.values["model_type"] == "gte" else 10_000.0),
        remote_code=("modeling.New", "configuration.New", "modeling_hf_alibaba_nlp_gte.Gte"),
        positions=("rope",),
        type_vocab_size=settings.size("type_vocab_size", 1, (0, limits.SEGMENTS)),
        gated=True,
        use_bias=True,
        inner_dropout=True,
    )


def _jina(settings: Settings) -> Config:
    return _read(
        settings,
        ("rope_theta", 20_000.0),
        type_vocab_size=settings.size("type_vocab_size", 1),
        gated=False,
        use_bias=True,
        inner_dropout=False,
        layer_norm_eps=settings.size("layer_norm_eps", 1e-5),
    )


def _read(settings: Settings, base: tuple[str, float], *, usual_inner: bool = False, **read: Any) -> Config:
    """What the three have in common; `base`: the older key of the base angle, and its value where no file names it."""
    width = settings.size("hidden_size")
    heads = settings.size("num_attention_heads")
    if usual_inner:
        read["intermediate_size"] = 4 * width
    settings.choice("head_dim", [None, width // heads], default=None, why="hidden_size / num_attention_heads")
    theta, factor = stretched_base(settings, *base, head_width=max(2, width // heads))
    return settings.encoder(
        Config,
        even_heads=True,  # rotary positions turn pairs of numbers
        hidden_size=width,
        num_attention_heads=heads,
        rope_theta=theta,
        rope_factor=factor,
        **read,
    )


# Where each tensor goes; see encoders/bert.py for how to read the tables. In `up` the gate comes second.
_LAYER = "encoder.layers.{i}."
_EMBEDDINGS = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.token_type_embeddings.weight", "segment_embedding.embedding", "S,D", when="type_vocab_size"),
]
RULES = [
    *_EMBEDDINGS,
    *norm("emb_ln", "embedding_norm", "D"),
    matrix(_LAYER + "attn.Wqkv", "blocks.{i}.attention.qkv", "D,3D"),
    matrix(_LAYER + "attn.out_proj", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "norm1", "blocks.{i}.attention_norm", "D"),
    matrix([_LAYER + "mlp.fc11", _LAYER + "mlp.fc12"], "blocks.{i}.feed_forward.up", "D,2F"),
    matrix(_LAYER + "mlp.fc2", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "norm2", "blocks.{i}.feed_forward_norm", "D"),
]
JINA_RULES = [
    *_EMBEDDINGS,
    *norm("emb_ln", "embedding_norm", "D"),
    *linear(_LAYER + "mixer.Wqkv", "blocks.{i}.attention.qkv", "D,3D"),
    *linear(_LAYER + "mixer.out_proj", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "norm1", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "mlp.fc1", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "mlp.fc2", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "norm2", "blocks.{i}.feed_forward_norm", "D"),
]
_LAYER = "encoder.layer.{i}."
GTE_RULES = [
    *_EMBEDDINGS,
    *norm("embeddings.LayerNorm", "embedding_norm", "D"),
    *linear(_LAYER + "attention.qkv_proj", "blocks.{i}.attention.qkv", "D,3D"),
    *linear(_LAYER + "attention.o_proj", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "attn_ln", "blocks.{i}.attention_norm", "D"),
    matrix(_LAYER + "mlp.up_gate_proj", "blocks.{i}.feed_forward.up", "D,2F"),
    *linear(_LAYER + "mlp.down_proj", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "mlp_ln", "blocks.{i}.feed_forward_norm", "D"),
]
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "cls.*", "lm_head.*", "classifier.*", "qa_outputs.*"]
PREFIX = "nomic_bert."  # NomicBertForMaskedLM and similar classes put it before every name
