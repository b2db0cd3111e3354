"""text/tokenizer_config.py: what the files next to tokenizer.json change in token ids, as transformers 5 applies them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, processors

from minisbert.cross_encoder.tokens import CrossEncoderTokenizer
from minisbert.errors import InputError, ModelFolderError
from minisbert.pretrained import load_pretrained
from minisbert.text import tokenizer as text
from minisbert.text.tokenizer_classes import KEYS

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import tiny

TEXTS = ["The DOG runs", "café naïve", "猫犬 dog", "a man<mask> [CLS] [NEW] eats"]
NEW = {"content": "[NEW]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
END = {**NEW, "content": "<|endoftext|>"}
# Family, and what changes in its tokenizer_config.json (None: no tokenizer.json; a file's name: that file).
CHANGES = {
    "cased": ("bert", {"do_lower_case": False}),
    "accents": ("bert", {"strip_accents": False}),
    "Chinese characters in words": ("bert", {"tokenize_chinese_chars": False}),
    "added_tokens_decoder": ("bert", {"added_tokens_decoder": {"187": NEW}}),
    "added_tokens.json": ("bert", {"added_tokens.json": {"[NEW]": 187}}),
    "an additional special token": ("mpnet", {"additional_special_tokens": ["[NEW]"]}),
    "special tokens as text": ("bert", {"split_special_tokens": True}),
    "a space before the text": ("roberta", {"add_prefix_space": True}),
    "T5's space before the text": ("t5", {"add_prefix_space": False}),  # its class knows no such option
    "Qwen's null": ("qwen3", {"unk_token": None, "bos_token": None}),  # as in published folders
    "Qwen's special tokens without flags": (
        "qwen3",
        {
            "added_tokens_decoder": {"0": END, "457": {**NEW, "content": "<mask>", "lstrip": True}},
            "mask_token": "<mask>",
        },
    ),
    "tokens with and without names": (
        "bert",
        {"additional_special_tokens": ["[NEW]"], "extra_special_tokens": {"a_token": "eats"}},
    ),
    "no space before the text": ("xlm-roberta", {"add_prefix_space": None}),
    "tokenizer.json as it is": ("bert", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}),
    "MPNet's defaults": ("mpnet", {"tokenizer.json": None, "cls_token": ..., "sep_token": ..., "pad_token": ...}),
    "special_tokens_map.json": (
        "bert",
        {"tokenizer.json": None, "cls_token": ..., "special_tokens_map.json": {"cls_token": "[SEP]"}},
    ),
    "a special token as an object": (
        "bert",
        {"tokenizer.json": None, "cls_token": {**NEW, "content": "[CLS]", "__type": "AddedToken"}},
    ),
}


def change(folder: Path, changes: dict) -> Path:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for key, value in changes.items():
        if key.endswith(".json"):
            (folder / key).unlink(missing_ok=True)
            if value is not None:
                (folder / key).write_text(json.dumps(value))
        elif value is ...:
            settings.pop(key)
        else:
            settings[key] = value
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def copy(tmp_path):
    return lambda family, changes: change(Path(shutil.copytree(tiny(family), tmp_path / "model")), changes)


def ids(folder: Path, texts=TEXTS) -> list[list[int]]:
    tokenizer = load_pretrained(folder).tokenizer
    tokenizer.rows = None  # ids beyond the table are compared too
    return tokenizer.tokenize(texts, max_length=64).ids


@pytest.mark.parity
@pytest.mark.parametrize("name", CHANGES)
def test_the_ids_are_those_of_transformers(name, copy):
    transformers = pytest.importorskip("transformers")
    folder = copy(*CHANGES[name])
    assert ids(folder) == transformers.AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]


@pytest.mark.parametrize("name", [name for name in CHANGES if "as an object" not in name and "MPNet" not in name])
def test_the_change_has_an_effect(name, copy):
    family, changes = CHANGES[name]
    if name not in ("tokenizer.json as it is", "T5's space before the text", "Qwen's null"):
        assert ids(copy(family, changes)) != ids(tiny(family))


@pytest.mark.parametrize("first", ["[CLS]", "a"])
def test_special_tokens_are_found_where_the_letter_a_has_no_token_of_its_own(first, copy):
    folder = copy("modernbert", {"cls_token": first})
    backend = Tokenizer(models.BPE({"[PAD]": 0, first: 1, "[SEP]": 2, "A": 3, "C": 4, "AC": 5}, [("A", "C")]))
    backend.add_special_tokens(["[PAD]", first, "[SEP]"])
    special = [(first, 1), ("[SEP]", 2)]
    single, pair = f"{first} $A [SEP]", f"{first} $A [SEP] $B [SEP]"
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_pretrained(folder).tokenizer
    assert (tokenizer.prefix, tokenizer.suffix) == ([1], [2])
    assert tokenizer.tokenize(["ACA"], max_length=9).ids == [[1, 5, 3, 2]]
    pairs = CrossEncoderTokenizer(tokenizer)
    assert (pairs.before, pairs.between, pairs.after) == ([1], [2], [2])
    with pytest.raises(ModelFolderError, match="gives texts no tokens"):
        text.Tokenizer(Tokenizer(models.BPE({}, [])), "tokenizer.json")


def test_left_truncation_keeps_the_end(copy):
    folder = copy("bert", {"truncation_side": "left"})
    (whole,) = ids(folder, ["the dog runs and the cat plays"])
    (cut,) = load_pretrained(folder).tokenizer.tokenize(["the dog runs and the cat plays"], max_length=5).ids
    assert cut == [whole[0], *whole[-4:]]


def test_a_token_beyond_the_table_is_refused_in_a_text_only(copy):
    tokenizer = load_pretrained(copy("bert", {"added_tokens_decoder": {"187": NEW}})).tokenizer
    assert tokenizer.tokenize(["the dog"], max_length=8).ids
    with pytest.raises(InputError, match=r"sentences\[1\].*\[NEW\]"):
        tokenizer.tokenize(["the dog", "a [NEW] dog"], max_length=8)
    assert tokenizer.tokenize(["the dog runs and a cat [NEW]"], max_length=8).ids, (
        "where the text is cut, it has no such token"
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer", "tokenizer.json": None}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "PhobertTokenizer"}, "PhobertTokenizer"),
        ({"tokenizer_class": "GPT2Tokenizer", "tokenizer.json": None}, "AutoTokenizer"),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "Unigram"),
        ({"padding_side": "left"}, "padding_side"),
        ({"model_input_names": ["input_ids"]}, "model_input_names"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"added_tokens_decoder": {"9" * 5000: NEW}}, "added_tokens_decoder"),
        (
            {"extra_special_tokens": 5, "special_tokens_map.json": {"extra_special_tokens": ["x"]}},
            "extra_special_tokens",
        ),
        ({"extra_special_tokens": [f"<{i}>" for i in range(30_000)]}, "30000 added tokens"),
        ({"added_tokens.json": {"x" * 700_000: 187}}, "700000 characters"),
        *[({key: ["x"]}, key) for key, effect in KEYS.items() if effect == "refused"],
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes, word, copy):
    with pytest.raises(ModelFolderError, match=word):
        load_pretrained(copy("bert", changes))


@pytest.mark.parametrize("key", [key for key, effect in KEYS.items() if effect == "harmless"] + ["unknown_setting"])
def test_a_harmless_key_changes_nothing(key, copy):
    value = False if key in ("trim_offsets", "verbose") else "x" if key != "add_bos_token" else True
    assert ids(copy("bert", {key: value})) == ids(tiny("bert"))


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_each_name_of_the_length_file(kind, copy):
    folder = copy("bert", {"sentence_bert_config.json": {}})
    (folder / f"sentence_{kind}_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    loaded = load_pretrained(folder).folder
    assert (loaded.max_seq_length, loaded.do_lower_case) == (9, True)


def test_parts_that_the_library_does_not_read_change_nothing(copy):
    """And a normalizer without its type is read as older versions wrote it."""
    folder = copy("bert", {})
    values = json.loads((folder / "tokenizer.json").read_text())
    del values["normalizer"]["type"]
    values["model"]["merges"] = values["post_processor"]["processors"] = 5
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert ids(folder) == ids(tiny("bert"))


@pytest.mark.parametrize(("family", "token"), [("bert", ""), ("roberta", ""), ("bert", "a:2")])
def test_a_special_token_that_no_template_takes_is_refused_by_name(copy, family, token):
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json: not special tokens that"):
        load_pretrained(copy(family, {"sep_token": token}))
