"""Tokenizers from vocabulary files, as models were published before there was one `tokenizer.json`.

    vocab.txt                  WordPiece (Schuster & Nakajima 2012): BERT, DistilBERT, MPNet
    vocab.json, merges.txt     byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): RoBERTa

`tokenizer_config.json` may name other special tokens and options; what it does not say is as in transformers, which
must give the same ids. Left out: sentencepiece's own format (*.model), which `tokenizers` alone does not read.
"""

from pathlib import Path
from typing import Any

from minisbert.checkpoint.settings import Settings, encodable, read_bytes, read_json
from minisbert.errors import ModelFolderError

# What makes a tokenizer.json of anything that transformers reads.
_RECIPE = (
    'On a machine with transformers and sentencepiece, in that folder: python -c "from transformers import '
    "AutoTokenizer; AutoTokenizer.from_pretrained('.').save_pretrained('.')\" writes tokenizer.json; then load it again."
)


def from_vocabulary(folder: Path) -> tuple[Path, Any]:
    """The tokenizer of a folder without `tokenizer.json`.

    Returns:
        the file it came from, and a `tokenizers.Tokenizer`.

    Raises:
        ModelFolderError: no vocabulary file, one in sentencepiece's format, a damaged one, or a special token that is
            not in it.
    """
    pieces, words, merges = (folder / name for name in ("vocab.txt", "vocab.json", "merges.txt"))
    if words.exists() and merges.exists():
        return words, byte_level_bpe(words, merges)
    if pieces.exists():
        return pieces, word_piece(pieces)
    sentencepiece = sorted(path.name for path in folder.glob("*.model"))
    if sentencepiece:
        raise ModelFolderError(
            f"{folder}: no tokenizer.json, only {', '.join(sentencepiece)}, which minisbert does not read. {_RECIPE}"
        )
    raise ModelFolderError(
        f"{folder}: no tokenizer.json, no vocab.txt, and no vocab.json with merges.txt. Expected the model's tokenizer "
        "beside its weights; fetch the model again."
    )


def word_piece(vocabulary: Path) -> Any:
    """BERT's tokenizer from its vocabulary file, a piece a line."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    settings = _tokenizer_config(vocabulary)
    lower_case = settings.flag("do_lower_case", default=True)
    chinese = settings.flag("tokenize_chinese_chars", default=True)
    strip = settings.choice("strip_accents", [None, True, False], default=None)
    defaults = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    special = {key: settings.text(key, default=token) for key, token in defaults.items()}
    settings.finish()
    pieces = _read_text(vocabulary).split("\n")
    ids = {piece.rstrip("\r"): row for row, piece in enumerate(pieces) if piece or row < len(pieces) - 1}
    _expect(special.values(), ids, vocabulary)
    backend = Tokenizer(models.WordPiece(ids, unk_token=special["unk_token"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip, lowercase=lower_case
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens([token for token in {**special, "mask_token": "[MASK]"}.values() if token in ids])
    cls, sep = special["cls_token"], special["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    return backend


def byte_level_bpe(vocabulary: Path, merges: Path) -> Any:
    """RoBERTa's tokenizer: text as UTF-8 bytes, each written as one printable sign, joined pair by pair.

    Args:
        vocabulary: `vocab.json`, an object of piece to id.
        merges: `merges.txt`, two pieces a line, the first pair to be joined first.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    settings = _tokenizer_config(vocabulary)
    prefix_space = settings.flag("add_prefix_space", default=False)
    trim_offsets = settings.flag("trim_offsets", default=True)
    defaults = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    special = {key: _special_token(settings, key, token) for key, token in {**defaults, "mask_token": "<mask>"}.items()}
    settings.finish()
    ids = read_json(vocabulary)
    if not isinstance(ids, dict) or not all(type(id) is int and 0 <= id < 2**32 for id in ids.values()):
        raise ModelFolderError(f"{vocabulary}: expected an object of piece to id. Fetch the model again.")
    _expect([special[key].content for key in defaults], ids, vocabulary)
    pairs = _read_merges(merges)
    try:
        backend = Tokenizer(models.BPE(ids, pairs))
    except Exception as error:  # the library's own, of no particular type
        raise ModelFolderError(f"{merges}: does not fit {vocabulary.name} ({error}). Fetch the model again.") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token in special.values() if token.content in ids])
    cls, sep = (special[key].content for key in ("cls_token", "sep_token"))
    backend.post_processor = processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]), trim_offsets, prefix_space)
    return backend


def _tokenizer_config(vocabulary: Path) -> Settings:
    file = vocabulary.parent / "tokenizer_config.json"
    return Settings(read_json(file) if file.exists() else {}, file)


def _special_token(settings: Settings, key: str, default: str) -> Any:
    """A special token, which the file gives as text or as an object with its `content` and how it treats spaces."""
    from tokenizers import AddedToken

    value = settings.values.get(key, default)
    value = value if isinstance(value, dict) else {"content": value}
    flags = {flag: value.get(flag, False) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    content = value.get("content")
    if not isinstance(content, str) or not encodable(content) or not all(isinstance(f, bool) for f in flags.values()):
        settings.complain(key, "a string, or an object with the string 'content' and flags")
        return AddedToken(default, special=True)
    return AddedToken(content, special=True, **flags)


def _read_text(file: Path) -> str:
    try:
        # As text files are read: every kind of line end counts.
        return read_bytes(file).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{file}: not readable ({error}). Expected UTF-8, a piece a line.") from None


def _read_merges(file: Path) -> list[tuple[str, str]]:
    pairs = []
    for row, line in enumerate(_read_text(file).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ModelFolderError(
                f"{file}: line {row} is {line!r:.100}, expected two pieces with a space between. Fetch the model again."
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _expect(special: Any, ids: Any, vocabulary: Path) -> None:
    missing = [token for token in special if token not in ids]
    if missing:
        raise ModelFolderError(
            f"{vocabulary}: special token(s) {', '.join(missing)} are not in the vocabulary. Fetch the model again."
        )
