"""Tokenizers from vocabulary files, as models were published before `tokenizer.json`.

vocab.txt                  WordPiece (Schuster & Nakajima 2012): BERT, DistilBERT, MPNet
vocab.json, merges.txt     byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): RoBERTa
sentencepiece.bpe.model    unigram pieces (sentencepiece.py): XLM-R
"""

import base64
from collections.abc import Mapping
from pathlib import Path

from minisbert import limits
from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.json_file import parse_json
from minisbert.errors import ModelFolderError, folder_error
from minisbert.text.sentencepiece import read_sentencepiece
from minisbert.text.tokenizer_classes import BUILT
from minisbert.text.tokenizer_config import TokenizerConfig, read_tokenizer_config
from minisbert.text.tokenizer_file import Source
from minisbert.text.tokenizer_limits import check_limits, check_pieces

SENTENCEPIECE = "sentencepiece.bpe.model"
# Makes a tokenizer.json of anything that transformers reads.
_RECIPE = (
    'On a machine with transformers and sentencepiece, in that folder: python -c "from transformers import '
    "AutoTokenizer; AutoTokenizer.from_pretrained('.').save_pretrained('.')\" writes tokenizer.json; then load it again."
)


def from_vocabulary(folder: ModelFolder) -> Source:
    """What the tokenizer of a folder without `tokenizer.json` is built from."""
    files, place = folder.tokenizer_files, folder.transformer_path
    if SENTENCEPIECE in files:
        return _from_sentencepiece(folder)
    kind = "BPE" if "vocab.json" in files and "merges.txt" in files else "WordPiece" if "vocab.txt" in files else None
    if kind is None:
        if others := sorted(path.name for path in place.glob("*.model")):
            raise ModelFolderError(
                f"{place}: no tokenizer.json, only {', '.join(others)}, which minisbert does not read. {_RECIPE}"
            )
        raise ModelFolderError(
            f"{place}: no tokenizer.json, no vocab.txt, and no vocab.json with merges.txt. Expected the model's tokenizer "
            "next to its weights; download the model again."
        )
    config = read_tokenizer_config(folder, {})
    if not config.name and not config.settings.values.get("tokenizer_class"):
        config = config._replace(name="RobertaTokenizer" if kind == "BPE" else "BertTokenizer")
    file = place / ("vocab.json" if kind == "BPE" else "vocab.txt")
    names = [name for name, (one, _) in BUILT.items() if one == kind]
    if config.name not in names:
        given = config.name or config.settings.values.get("tokenizer_class")
        raise ModelFolderError(
            f"{file}: of the class {given!r:.100}, and no tokenizer.json. Expected the vocabulary of {' or '.join(names)}. "
            f"{_RECIPE}"
        )
    if kind == "WordPiece":
        pieces = _text(files, file).split("\n")
        ids = {piece: row for row, piece in enumerate(pieces) if piece or row < len(pieces) - 1}
    else:
        ids = parse_json(files["vocab.json"], file)
        if not isinstance(ids, dict) or not all(type(id) is int and 0 <= id < 2**32 for id in ids.values()):
            raise folder_error(file, "not all values are ids", "an object of piece to id")
    check_pieces(ids, file)
    _check_special(config, file, ids)
    return Source(file, None, config, ids, _merges(files, place / "merges.txt") if kind == "BPE" else None)


def _from_sentencepiece(folder: ModelFolder) -> Source:
    """XLM-R's pieces: four special tokens take the place of sentencepiece's first three, and a mask token comes last."""
    config, file = read_tokenizer_config(folder, {}), folder.transformer_path / SENTENCEPIECE
    if config.name != "XLMRobertaTokenizer":
        raise ModelFolderError(
            f"{file}: of the class {config.name!r:.100}, and no tokenizer.json. Expected XLMRobertaTokenizer. {_RECIPE}"
        )
    pieces, charsmap = read_sentencepiece(folder.tokenizer_files[SENTENCEPIECE], file)
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap or b"").decode()}
    check_limits({"normalizer": normalizer, "model": {"vocab": [piece for piece, _ in pieces]}}, file)
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    first = [(config.special[name], 0.0) for name in names]
    vocabulary = [*first, *pieces[3:], (config.special["mask_token"], 0.0)]
    return Source(file, None, config, vocabulary, None, charsmap)


def _check_special(config: TokenizerConfig, file: Path, ids: dict[str, int]) -> None:
    """The special tokens that rows of ids can have must be in the vocabulary or added to it."""
    known = {*ids, *(token.content for token in config.added.values())}
    qwen = config.name == "Qwen2Tokenizer"
    missing = []
    for key in ("eos_token", "pad_token") if qwen else ("cls_token", "sep_token", "unk_token", "pad_token"):
        text = config.special.get(key)
        if text is not None and text not in known:
            missing.append(f"{config.settings.names.get(key, key)} {text!r:.100}")
    if missing:
        raise ModelFolderError(
            f"{file}: the vocabulary lacks special tokens: {', '.join(missing)}. Expected them in it; correct "
            "tokenizer_config.json or special_tokens_map.json, or download the model again."
        )


def _text(files: Mapping[str, bytes], file: Path) -> str:
    content = files[file.name]
    if (lines := content.count(b"\n") + content.count(b"\r")) > 2 * limits.PIECES:
        raise folder_error(file, f"{lines} lines", f"at most {2 * limits.PIECES}")
    try:
        # As Python reads text files: every kind of line end counts.
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise folder_error(file, f"not readable ({error})", "UTF-8, one piece per line") from None


def _merges(files: Mapping[str, bytes], file: Path) -> list[tuple[str, str]]:
    pairs = []
    for row, line in enumerate(_text(files, file).split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise folder_error(file, f"line {row} is {line!r:.100}", "two pieces with a space between")
        pairs.append((pair[0], pair[1]))
    return pairs
