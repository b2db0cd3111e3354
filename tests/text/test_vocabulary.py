"""text/vocabulary.py: tokenizers from vocabulary files give what the same model's tokenizer.json gives; bad files are named."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from minisbert.checkpoint.folder import ModelFolder
from minisbert.errors import ModelFolderError
from minisbert.pretrained import load_pretrained, save_pretrained
from minisbert.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import tiny
from varied_sentences import SENTENCES

OLD_FILES = {"bert": "vocab.txt", "roberta": "vocab.json"}


@pytest.fixture
def roberta(tmp_path) -> Path:
    """The tiny RoBERTa without its tokenizer.json."""
    folder = Path(shutil.copytree(tiny("roberta"), tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize("family", OLD_FILES)
def test_the_vocabulary_files_give_the_ids_of_tokenizer_json(family, tmp_path):
    whole = load_pretrained(tiny(family)).tokenizer
    folder = Path(shutil.copytree(tiny(family), tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    alone = load_pretrained(folder).tokenizer
    assert Path(alone.where).name == OLD_FILES[family]
    assert alone.tokenize(SENTENCES, max_length=64).ids == whole.tokenize(SENTENCES, max_length=64).ids


def tokenizer_of(folder):
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    tokenizer = Tokenizer.from_folder(
        ModelFolder(folder, folder, "roberta", {"model_type": "roberta"}, tokenizer_files=files)
    )
    return tokenizer.where, tokenizer.backend


def test_bytes_are_joined_in_the_order_of_the_merges(roberta):
    """By hand: of "aab", the pair that is joined first is the one that stands first in merges.txt."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "Ġ", "aa", "ab", "Ġa"]
    (roberta / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(words)}))
    ids = {}
    for merges in ("a a\na b\nĠ a\n", "a b\r\na a\r\nĠ a\r\n", "#version: 0.2\nĠ a\na a\na b"):
        (roberta / "merges.txt").write_text(merges)
        _, backend = tokenizer_of(roberta)
        ids[merges] = [words[row] for row in backend.encode("aab a").ids]
    assert list(ids.values()) == [["<s>", "aa", "b", "Ġa", "</s>"], ["<s>", "a", "ab", "Ġa", "</s>"]] + [
        ["<s>", "aa", "b", "Ġa", "</s>"]
    ]


def test_options_of_tokenizer_config(roberta):
    plain = tokenizer_of(roberta)[1].encode("the cat<mask> the").tokens
    assert plain[1] == "t" and "Ġcat" in plain
    mask = {"content": "<mask>", "lstrip": False, "rstrip": True, "normalized": False}
    (roberta / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": True, "mask_token": mask}))
    backend = tokenizer_of(roberta)[1]
    tokens = [backend.id_to_token(row) for row in backend.encode("the cat<mask> the").ids]
    assert tokens == ["<s>", "Ġthe", "Ġcat", "<mask>", "Ġthe", "</s>"]


def test_they_are_kept_and_written_back(roberta, tmp_path):
    model = load_pretrained(roberta)
    save_pretrained(model, tmp_path / "written")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "written" / name).read_bytes() == (tiny("roberta") / name).read_bytes()
    again = load_pretrained(tmp_path / "written").tokenizer
    assert Path(again.where).name == "tokenizer.json"
    assert again.tokenize(SENTENCES, max_length=64).ids == model.tokenizer.tokenize(SENTENCES, max_length=64).ids


# what is written into which file, and the words of the message
BAD = {
    "no merges": ("merges.txt", None, ["tokenizer.json", "merges.txt"]),
    "no vocabulary": ("vocab.json", None, ["tokenizer.json", "vocab.json"]),
    "a vocabulary that is a list": ("vocab.json", '["a"]', ["vocab.json"]),
    "a vocabulary that is not JSON": ("vocab.json", "{", ["vocab.json"]),
    "ids that are text": ("vocab.json", '{"<s>": "0"}', ["vocab.json"]),
    "a negative id": ("vocab.json", '{"<s>": -1}', ["vocab.json"]),
    "an id beyond 32 bits": ("vocab.json", '{"<s>": 4294967296}', ["vocab.json"]),
    "an id that is true": ("vocab.json", '{"<s>": true}', ["vocab.json"]),
    "no special tokens": ("vocab.json", '{"a": 0}', ["vocab.json", "<s>", "<pad>", "</s>", "<unk>"]),
    "merges that are not UTF-8": ("merges.txt", b"\xff \xfe\n", ["merges.txt", "UTF-8"]),
    "a merge of three": ("merges.txt", "#version: 0.2\na b c\n", ["merges.txt", "line 2", "a b c"]),
    "a merge of one": ("merges.txt", "a\n", ["merges.txt", "line 1"]),
    "a merge with two spaces": ("merges.txt", "a  b\n", ["merges.txt", "line 1"]),
    "merges of unknown pieces": ("merges.txt", "xx yy\n", ["merges.txt", "vocab.json"]),
    "a cls_token that is a number": ("tokenizer_config.json", '{"cls_token": 3}', ["cls_token"]),
    "a cls_token that is not there": ("tokenizer_config.json", '{"cls_token": "[X]"}', ["vocab.json", "[X]"]),
    "a mask_token without content": ("tokenizer_config.json", '{"mask_token": {"lstrip": true}}', ["mask_token"]),
    "a flag that is text": (
        "tokenizer_config.json",
        '{"pad_token": {"content": "<pad>", "lstrip": "no"}}',
        ["pad_token"],
    ),
    "add_prefix_space is text": ("tokenizer_config.json", '{"add_prefix_space": "no"}', ["add_prefix_space"]),
    "a configuration that is a list": ("tokenizer_config.json", "[]", ["tokenizer_config.json"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name, roberta):
    file, content, words = BAD[name]
    if content is None:
        (roberta / file).unlink()
    else:
        (roberta / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelFolderError) as caught:
        tokenizer_of(roberta)
    assert str(roberta) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("file", ["sentencepiece.bpe.model", "spiece.model"])
def test_sentencepiece_alone_is_refused_with_the_way_out(file, roberta):
    for name in ("vocab.json", "merges.txt"):
        (roberta / name).unlink()
    (roberta / file).write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    with pytest.raises(ModelFolderError) as caught:
        load_pretrained(roberta)
    for word in (str(roberta), file, "AutoTokenizer", "tokenizer.json"):
        assert word in str(caught.value)
