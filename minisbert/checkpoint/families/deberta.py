"""How a folder stores a DeBERTa-v2 or v3: its settings, and where each tensor goes. `encoders/deberta.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, matrix, norm
from minisbert.checkpoint.settings import Settings

TERMS = ("c2p", "p2c")


@dataclass(frozen=True)
class Config:
    """The settings in a DeBERTa's config.json, under the names of that file where it has them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    pos_att_type: tuple[str, ...]  # of TERMS, in their order
    span: int  # the largest distance, or bucket of distances
    position_buckets: int  # 0: none
    max_relative_positions: int
    own_maps: bool  # distances are mapped by matrices of their own: not share_att_key
    position_biased_input: bool = True
    norm_distances: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-7
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    narrow: int | None = None  # embedding_size, where it differs from hidden_size
    embedding_size = property(lambda config: config.narrow or config.hidden_size, doc="Of the tables.")
    relative_attention_num_buckets = property(lambda config: 2 * config.span, doc="Rows of the table of distances.")
    # Whether distances have a matrix for their keys, and for their queries.
    position_key = property(lambda config: config.own_maps and "c2p" in config.pos_att_type)
    position_query = property(lambda config: config.own_maps and "p2c" in config.pos_att_type)

    @property
    def max_positions(self) -> int:
        """The longest input in tokens: distances have no end, a table of positions has."""
        return self.max_position_embeddings if self.position_biased_input else limits.TOKENS

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("relative_attention", [True], why="no published model does without distances")
        settings.choice("conv_kernel_size", [0, None], default=0, why="the convolution of v2's largest models")
        width = settings.size("hidden_size")
        heads = settings.size("num_attention_heads")
        settings.choice("attention_head_size", [None, width // heads], default=None, why="hidden_size / heads")
        longest = settings.size("max_position_embeddings")
        farthest = settings.size("max_relative_positions", -1)
        farthest = longest if farthest < 1 else farthest
        buckets = settings.size("position_buckets", -1)
        if buckets > 0 and (buckets < 4 or buckets // 2 >= farthest - 1):
            settings.complain(
                "position_buckets", f"-1, or 4 to {2 * farthest - 3}: twice the distances with a row each"
            )
        narrow = settings.size("embedding_size", width)
        norms = settings.text("norm_rel_ebd", default="none")
        return settings.encoder(
            Config,
            hidden_size=width,
            num_attention_heads=heads,
            max_position_embeddings=longest,
            type_vocab_size=settings.size("type_vocab_size", 0, (0, limits.SEGMENTS)),
            pos_att_type=_terms(settings),
            span=buckets if buckets > 0 else farthest,
            position_buckets=max(0, buckets),
            max_relative_positions=farthest,
            own_maps=not settings.flag("share_att_key", default=False),
            norm_distances="layer_norm" in [part.strip() for part in norms.lower().split("|")],
            narrow=None if narrow == width else narrow,
        )


def _terms(settings: Settings) -> tuple[str, ...]:
    """`pos_att_type`: a list, or names with | between; null or missing means none."""
    found = settings.values.get("pos_att_type")
    names = [part.strip() for part in found.lower().split("|")] if isinstance(found, str) else found or []
    if not isinstance(names, list) or not all(name in TERMS for name in names):
        settings.complain("pos_att_type", f"a list of names, each one of {', '.join(map(repr, TERMS))}")
        names = []
    return tuple(term for term in TERMS if term in names)


# Where each tensor of a DeBERTa checkpoint goes; see checkpoint/families/bert.py for how to read the table.
_LAYER = "encoder.layer.{i}."
_ATTENTION = _LAYER + "attention.self."


RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,E"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,E", when="position_biased_input"),
    Rule("embeddings.token_type_embeddings.weight", "segment_embedding.embedding", "S,E", when="type_vocab_size"),
    matrix("embeddings.embed_proj", "embedding_projection", "E,D", when="narrow"),
    *norm("embeddings.LayerNorm", "embedding_norm", "D"),
    Rule("encoder.rel_embeddings.weight", "distance_embedding.embedding", "R,D"),
    *norm("encoder.LayerNorm", "distance_norm", "D", when="norm_distances"),
    *linear([_ATTENTION + f"{part}_proj" for part in ("query", "key", "value")], "blocks.{i}.attention.qkv", "D,3D"),
    *linear(_ATTENTION + "pos_key_proj", "blocks.{i}.attention.position_key", "D,D", when="position_key"),
    *linear(_ATTENTION + "pos_query_proj", "blocks.{i}.attention.position_query", "D,D", when="position_query"),
    *linear(_LAYER + "attention.output.dense", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "attention.output.LayerNorm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "intermediate.dense", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "output.dense", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output.LayerNorm", "blocks.{i}.feed_forward_norm", "D"),
]
# Heads; and a position table that is in files of models which do not use it.
PASSTHROUGH = ["embeddings.position_ids", "embeddings.position_embeddings.*", "pooler.dense.*", "cls.*", "classifier.*"]
PASSTHROUGH += ["lm_predictions.*", "mask_predictions.*", "qa_outputs.*"]
PREFIX = "deberta."  # DebertaV2ForMaskedLM and similar classes put it before every name
