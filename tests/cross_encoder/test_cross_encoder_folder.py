"""Folders of cross-encoders: both dialects are read, what is not understood is refused by name, the wrong class says so."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import CrossEncoder, ModelFolderError, SentenceEncoder
from minisbert.checkpoint.kinds import sign_of_cross_encoder
from minisbert.checkpoint.settings import ModelFiles
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.cross_encoder.folder import ACTIVATION_CLASSES, ACTIVATIONS_BY_NAME, read_cross_encoder_folder

sys.path.insert(0, str(Path(__file__).parents[1]))
from cross_encoder_cases import FAMILIES, WEIGHTS, tiny

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
# What sentence-transformers 6.2 adds to the older form.
NEW_FILES = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}],
    "sentence_bert_config.json": {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
    "config_sentence_transformers.json": {
        "__version__": {"pytorch": "2.13.0", "sentence_transformers": "6.2.0", "transformers": "5.23.0"},
        "activation_fn": SIGMOID,
        "default_prompt_name": None,
        "model_type": "CrossEncoder",
        "prompts": {},
    },
}


@pytest.fixture(scope="module", params=FAMILIES)
def written(request, tmp_path_factory) -> Path:
    """A folder of three labels, as minisbert writes it."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    tiny(request.param, 3).save(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(written, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def new(folder) -> Path:
    """The same in the newer dialect."""
    edit(folder, sentence_transformers=None)
    for name, content in NEW_FILES.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def edit(folder: Path, file: str = "config.json", **values) -> Path:
    """Set keys of a settings file; None removes one."""
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def refused(call, *words: str) -> str:
    with pytest.raises(ModelFolderError) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    return message


# --- both dialects -------------------------------------------------------------------------------------------------


def test_the_older_form_is_written(written):
    config = json.loads((written / "config.json").read_text())
    assert not (written / "modules.json").exists()
    assert config["architectures"][0] in ("BertForSequenceClassification", "MPNetForSequenceClassification")
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert config["sentence_transformers"] == {"activation_fn": IDENTITY}
    names = sorted(SafetensorsFiles(written).shapes())
    prefix = f"{config['model_type']}."
    assert all(name.startswith((prefix, "classifier.")) for name in names)
    pooler = [name for name in names if "pooler" in name]
    assert pooler == (["bert.pooler.dense.bias", "bert.pooler.dense.weight"] if prefix == "bert." else [])


def test_the_newer_form_is_read_and_its_activation_counts(new):
    edit(new, sentence_transformers={"activation_fn": IDENTITY, "version": "5.0.0"})
    assert CrossEncoder(new).activation_fn == "sigmoid"
    edit(new, "config_sentence_transformers.json", activation_fn=None)
    assert CrossEncoder(new).activation_fn == "identity"
    assert edit(new, "sentence_bert_config.json", max_seq_length=30) == new
    assert CrossEncoder(new).max_seq_length == 30


@pytest.mark.parametrize("family", ["modernbert", "deberta-v2"])
def test_padding_on_the_left_is_refused_since_the_head_takes_the_first_token(tmp_path, family):
    """Positions count from the padding in neither family, so that only the head sees which side is padded."""
    CrossEncoder.from_encoder(f"weights/tiny-{family}").save(tmp_path / "model")
    edit(tmp_path / "model", "tokenizer_config.json", padding_side="left")
    refused(lambda: CrossEncoder(tmp_path / "model"), "'padding_side' is 'left'", "the first token of shorter texts")


@pytest.mark.parametrize("theirs, ours", ACTIVATION_CLASSES.items())
def test_activations_of_config_json_new_and_old(folder, theirs, ours):
    assert read_cross_encoder_folder(edit(folder, sentence_transformers={"activation_fn": theirs})).activation == ours
    old = {"sentence_transformers": None, "sbert_ce_default_activation_function": theirs}
    assert read_cross_encoder_folder(edit(folder, **old)).activation == ours
    # The old key goes when the folder is written again.
    CrossEncoder(folder).save(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "sbert_ce_default_activation_function" not in config
    assert config["sentence_transformers"] == {"activation_fn": ACTIVATIONS_BY_NAME[ours]}


def test_the_default_activation_follows_the_labels(folder):
    assert read_cross_encoder_folder(edit(folder, sentence_transformers=None)).activation == "identity"
    assert read_cross_encoder_folder(edit(folder, id2label={"0": "relevant"})).activation == "sigmoid"


def test_without_names_there_are_two_labels(folder):
    """So transformers writes a model with two."""
    assert read_cross_encoder_folder(edit(folder, id2label=None, label2id=None)).num_labels == 2
    assert read_cross_encoder_folder(edit(folder, num_labels=3)).num_labels == 3


def test_the_length_limit_is_the_tokenizers_capped_by_the_positions(folder):
    for limit, kept in ((30, 30), (1000, 64), (1e30, 64), (None, 64)):
        assert CrossEncoder(edit(folder, "tokenizer_config.json", model_max_length=limit)).max_seq_length == kept


def test_weights_without_the_encoders_prefix_are_written_back_as_they_were(folder):
    tensors = SafetensorsFiles(folder)
    prefix = json.loads((folder / "config.json").read_text())["model_type"] + "."
    bare = {name.removeprefix(prefix): tensors.read(name) for name in tensors.shapes()}
    write_tensors(folder / "model.safetensors", bare)
    CrossEncoder(folder).save(folder / ".." / "again")
    again = SafetensorsFiles(folder / ".." / "again")
    assert again.shapes().keys() == bare.keys()
    assert all(np.array_equal(again.read(name), array) for name, array in bare.items())


# --- the wrong class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bi_encoder_is_refused_with_the_right_class(family):
    refused(
        lambda: CrossEncoder(WEIGHTS / f"tiny-{family}"), "Transformer, Pooling", "SentenceEncoder(", "from_encoder"
    )


def test_a_cross_encoder_is_refused_with_the_right_class(folder):
    assert sign_of_cross_encoder(ModelFiles(folder))
    for call in (SentenceEncoder.load, CrossEncoder.from_encoder):
        refused(lambda call=call: call(folder), "architectures", "load it with CrossEncoder(...)")


def test_a_cross_encoder_of_the_newer_form_is_refused_with_the_right_class(new):
    refused(lambda: SentenceEncoder.load(new), "'model_type' is 'CrossEncoder'", "load it with CrossEncoder(...)")


def test_an_encoder_without_a_head_is_refused_with_the_remedy(folder):
    tensors = SafetensorsFiles(folder)
    write_tensors(
        folder / "model.safetensors",
        {name: tensors.read(name) for name in tensors.shapes() if not name.startswith("classifier.")},
    )
    refused(lambda: CrossEncoder(folder), "no classification head", "CrossEncoder.from_encoder")


# --- refused by name -----------------------------------------------------------------------------------------------


def test_every_tensor_that_does_not_fit_is_named_in_one_error(folder):
    tensors = SafetensorsFiles(folder)
    arrays = {name: tensors.read(name) for name in tensors.shapes()}
    head = sorted(name for name in arrays if name.startswith("classifier."))
    (encoder,) = [name for name in arrays if name.endswith("word_embeddings.weight")]
    arrays["classifier.extra.weight"] = arrays[
        head[0]
    ]  # the bi-encoder's pattern for what is carried would let it pass
    arrays["surplus"] = arrays[head[0]]
    arrays[head[-1]] = arrays[head[-1]][:1]  # another number of labels
    del arrays[head[0]], arrays[encoder]
    write_tensors(folder / "model.safetensors", arrays)
    message = refused(lambda: CrossEncoder(folder), "5 complaint(s)")
    prefix = json.loads((folder / "config.json").read_text())["model_type"] + "."
    assert f"missing: {head[0]!r}" in message and f"missing: {encoder.removeprefix(prefix)!r}" in message
    assert f"wrong shape: {head[-1]!r}" in message
    assert "unknown: 'classifier.extra.weight'" in message and "unknown: 'surplus'" in message


def test_a_head_of_another_size_than_config_json_says(folder):
    refused(lambda: CrossEncoder(edit(folder, id2label={"0": "a", "1": "b"})), "wrong shape: 'classifier.", "[3")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"id2label": {}}, "'id2label' is {}"),
        ({"id2label": {"0": "a", "2": "c"}}, "'id2label' is"),
        ({"id2label": ["a", "b", "c"]}, "'id2label' is"),
        ({"num_labels": 2}, "'num_labels' is 2"),
        ({"sentence_transformers": {"activation_fn": "os.system"}}, "'activation_fn' is 'os.system'"),
        ({"sentence_transformers": {"activation_fn": ["a"]}}, "'activation_fn' is ['a']"),
        ({"sentence_transformers": {"typo": 1}}, "'typo' is 1"),
        ({"sentence_transformers": 3}, "holds a int"),
        ({"sbert_ce_default_activation_function": "x", "sentence_transformers": None}, "is 'x'"),
        ({"classifier_dropout": 1.5}, "'classifier_dropout' is 1.5"),
        ({"model_type": "xlnet"}, "'model_type' is 'xlnet'"),
        ({"model_type": None}, "'model_type' is missing"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    ],
)
def test_settings_that_would_be_computed_wrongly(folder, values, told):
    refused(lambda: CrossEncoder(edit(folder, **values)), "config.json", told)


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        (
            "sentence_bert_config.json",
            {"transformer_task": "text-generation"},
            "'transformer_task' is 'text-generation'",
        ),
        ("sentence_bert_config.json", {"module_output_name": "token_embeddings"}, "'module_output_name'"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "'modality_config'"),
        ("sentence_bert_config.json", {"model_kwargs": {"a": 1}}, "'model_kwargs'"),
        ("sentence_bert_config.json", {"typo": 1}, "'typo'"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "'prompts'"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "'default_prompt_name'"),
        ("config_sentence_transformers.json", {"activation_fn": "my.module.Fn"}, "'activation_fn' is 'my.module.Fn'"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "'model_type' is 'SparseEncoder'"),
        ("config_sentence_transformers.json", {"typo": 1}, "'typo'"),
        ("tokenizer_config.json", {"model_max_length": -1}, "'model_max_length' is -1"),
    ],
)
def test_settings_of_the_newer_form_that_would_be_computed_wrongly(new, file, values, told):
    edit(new, "sentence_bert_config.json", typo=None)
    refused(lambda: CrossEncoder(edit(new, file, **values)), file, told)


def test_a_prompt_of_null_is_none(new):
    edit(new, "config_sentence_transformers.json", prompts={"query": None, "web": "find: "})
    assert CrossEncoder(new).prompts == {"query": "", "web": "find: "}


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([], "a list of 0"),
        ({"idx": 0}, "Expected a list of"),
        ([{"type": TRANSFORMER, "path": "../x"}], "leaves the model folder"),
        ([{"type": TRANSFORMER}], "'path' is missing"),
        ([{"type": "mine.Transformer", "path": ""}], "mine.Transformer"),
        ([{"type": "mine.LogitScore", "path": ""}], "Expected one Transformer with the head among its weights"),
        ([{"type": TRANSFORMER, "path": ""}, {"type": "x.LogitScore", "path": "1"}], "LogitScore"),
    ],
)
def test_other_modules_than_one_transformer(new, modules, told):
    (new / "modules.json").write_text(json.dumps(modules))
    refused(lambda: CrossEncoder(new), "modules.json", told)


def test_lower_case_that_the_tokenizer_does_not_do(new):
    edit(new, "sentence_bert_config.json", do_lower_case=True)
    assert CrossEncoder(new).predict(("A Cat", "a dog")).shape == (3,)  # the tokenizer lower-cases by itself
    edit(new, "tokenizer_config.json", do_lower_case=False)  # counts more than tokenizer.json
    refused(lambda: CrossEncoder(new), "ask for lower case")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model_max_length": "long"}'])
def test_a_damaged_tokenizer_config(folder, content):
    (folder / "tokenizer_config.json").write_text(content)
    refused(lambda: CrossEncoder(folder), "tokenizer_config.json")


def test_missing_folders_and_files(folder, tmp_path):
    refused(lambda: read_cross_encoder_folder(tmp_path / "nothing"), "no such folder")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)
    refused(lambda: CrossEncoder(folder), "no tokenizer.json")
    (folder / "config.json").write_text("[]")
    message = refused(lambda: CrossEncoder(folder), "config.json")
    assert re.search("expect", message, re.I)
