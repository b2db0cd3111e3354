"""Tokenizers from vocabulary files, as models were published before `tokenizer.json`.

    vocab.txt                  WordPiece (Schuster & Nakajima 2012): BERT, DistilBERT, MPNet
    vocab.json, merges.txt     byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): RoBERTa

`tokenizer_config.json` may name other special tokens and options; the defaults are those of transformers, which must give
the same ids. Left out: sentencepiece's own format (*.model), which `tokenizers` alone does not read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisbert.checkpoint.settings import Settings, is_text, parse_json
from minisbert.errors import ModelFolderError

# Makes a tokenizer.json of anything that transformers reads.
_RECIPE = (
    'On a machine with transformers and sentencepiece, in that folder: python -c "from transformers import '
    "AutoTokenizer; AutoTokenizer.from_pretrained('.').save_pretrained('.')\" writes tokenizer.json; then load it again."
)


def from_vocabulary(files: Mapping[str, bytes], folder: Path) -> tuple[Path, Any]:
    """The tokenizer of a folder without `tokenizer.json`.

    Args:
        files: name -> content of the tokenizer's files.
        folder: where they are, for messages.

    Returns:
        The file it came from, and a `tokenizers.Tokenizer`.

    Raises:
        ModelFolderError: no vocabulary file, one in sentencepiece's format, a damaged one, or a special token that is
            not in it.
    """
    if "vocab.json" in files and "merges.txt" in files:
        return folder / "vocab.json", byte_level_bpe(files, folder)
    if "vocab.txt" in files:
        return folder / "vocab.txt", word_piece(files, folder)
    sentencepiece = sorted(path.name for path in folder.glob("*.model"))
    if sentencepiece:
        raise ModelFolderError(
            f"{folder}: no tokenizer.json, only {', '.join(sentencepiece)}, which minisbert does not read. {_RECIPE}"
        )
    raise ModelFolderError(
        f"{folder}: no tokenizer.json, no vocab.txt, and no vocab.json with merges.txt. Expected the model's tokenizer "
        "next to its weights; download the model again."
    )


def word_piece(files: Mapping[str, bytes], folder: Path) -> Any:
    """BERT's tokenizer from `vocab.txt`, one piece per line; arguments as for `from_vocabulary`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    settings = _tokenizer_config(files, folder)
    lower_case = settings.flag("do_lower_case", default=True)
    chinese = settings.flag("tokenize_chinese_chars", default=True)
    strip = settings.choice("strip_accents", [None, True, False], default=None)
    defaults = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    special = {key: settings.text(key, default=token) for key, token in defaults.items()}
    settings.finish()
    vocabulary = folder / "vocab.txt"
    pieces = _text(files, vocabulary).split("\n")
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


def byte_level_bpe(files: Mapping[str, bytes], folder: Path) -> Any:
    """RoBERTa's tokenizer: text as UTF-8 bytes, each written as one printable character, joined pair by pair.

    `vocab.json` is an object of piece to id; `merges.txt` has two pieces per line, the pair to join first in the first.
    Arguments as for `from_vocabulary`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    settings = _tokenizer_config(files, folder)
    prefix_space = settings.flag("add_prefix_space", default=False)
    trim_offsets = settings.flag("trim_offsets", default=True)
    defaults = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    special = {key: _special_token(settings, key, token) for key, token in {**defaults, "mask_token": "<mask>"}.items()}
    settings.finish()
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    ids = parse_json(files["vocab.json"], vocabulary)
    if not isinstance(ids, dict) or not all(type(id) is int and 0 <= id < 2**32 for id in ids.values()):
        raise ModelFolderError(f"{vocabulary}: expected an object of piece to id. Download the model again.")
    _expect([special[key].content for key in defaults], ids, vocabulary)
    pairs = _merges(files, merges)
    try:
        backend = Tokenizer(models.BPE(ids, pairs))
    except Exception as error:  # the library's own, of no particular type
        raise ModelFolderError(
            f"{merges}: does not fit {vocabulary.name} ({error}). Download the model again."
        ) from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token in special.values() if token.content in ids])
    cls, sep = (special[key].content for key in ("cls_token", "sep_token"))
    backend.post_processor = processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]), trim_offsets, prefix_space)
    return backend


def _tokenizer_config(files: Mapping[str, bytes], folder: Path) -> Settings:
    file = folder / "tokenizer_config.json"
    return Settings(parse_json(files.get(file.name, b"{}"), file), file)


def _special_token(settings: Settings, key: str, default: str) -> Any:
    """A special token, which the file gives as text or as an object with its `content` and how it treats spaces."""
    from tokenizers import AddedToken

    value = settings.values.get(key, default)
    value = value if isinstance(value, dict) else {"content": value}
    flags = {flag: value.get(flag, False) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    content = value.get("content")
    if not is_text(content) or not all(isinstance(f, bool) for f in flags.values()):
        settings.complain(key, "a string, or an object with the string 'content' and flags")
        return AddedToken(default, special=True)
    return AddedToken(content, special=True, **flags)


def _text(files: Mapping[str, bytes], file: Path) -> str:
    try:
        # As Python reads text files: every kind of line end counts.
        return files[file.name].decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{file}: not readable ({error}). Expected UTF-8, one piece per line.") from None


def _merges(files: Mapping[str, bytes], file: Path) -> list[tuple[str, str]]:
    pairs = []
    for row, line in enumerate(_text(files, file).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ModelFolderError(
                f"{file}: line {row} is {line!r:.100}, expected two pieces with a space between. Download the model again."
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _expect(special: Any, ids: Any, vocabulary: Path) -> None:
    missing = [token for token in special if token not in ids]
    if missing:
        raise ModelFolderError(
            f"{vocabulary}: special token(s) {', '.join(missing)} are not in the vocabulary. Download the model again."
        )
