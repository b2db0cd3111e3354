"""CrossEncoder: its logits against the NumPy twin, rows of tokens and truncation, predict and rank, load and save."""

import json
import re
import shutil
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cross_encoder_cases import FAMILIES, NEWER, PAIRS, WEIGHTS, tiny, with_params
from families import TWINS
from flax import nnx
from safetensors.numpy import load_file, save_file

from minisbert import CrossEncoder, InputError, MinisbertError, ModelFolderError, SentenceEncoder
from minisbert.checkpoint.convert import flatten
from minisbert.checkpoint.settings import Settings
from minisbert.cross_encoder.heads import HEADS
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.cross_encoder.tokens import longest_first
from minisbert.inference.batching import rectangle
from minisbert.reference import cross_encoder as twin
from minisbert.training.optimizer import decays

# float64 rounding over the whole model, on logits of size 1; 1e-15 is measured.
FLOAT64 = 1e-10
# float32, on logits of size 1; 5e-7 is measured.
FLOAT32 = 2e-6
SHORT = PAIRS[:8]


@cache
def model(family: str, num_labels: int = 1) -> CrossEncoder:
    """Shared: nothing below changes it."""
    return tiny(family, num_labels)


def plain_files(encoder: CrossEncoder, folder) -> list[str]:
    encoder.save(folder)
    return [path.name for path in folder.iterdir()]


def twin_logits(encoder: CrossEncoder, pairs) -> np.ndarray:
    tokens = encoder.tokenize(pairs)
    family = TWINS[encoder.model_config.model_type]
    params = jax.tree.map(np.asarray, encoder.pretrained.params)
    return twin.logits(family, params, encoder.model_config, tokens.ids, tokens.first_lengths)


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, *NEWER])
def test_the_model_is_the_twin_in_float64(family):
    encoder = model(family, 3)
    tokens = encoder.tokenize(SHORT)
    lengths_B = np.array([len(ids) for ids in tokens.ids], np.int32)
    token_ids_BL = np.full((len(SHORT), 48), encoder.padding_id, np.int32)
    for row, ids in enumerate(tokens.ids):
        token_ids_BL[row, : len(ids)] = ids
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), encoder.pretrained.params)
        definition, _ = define_cross_encoder(encoder.model_config, jnp.float64)
        run = jax.jit(lambda params, *rows: nnx.merge(definition, params)(*rows))
        found = np.asarray(run(params, token_ids_BL, lengths_B, np.array(tokens.first_lengths, np.int32)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, twin_logits(encoder, SHORT), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("family", FAMILIES)
def test_predict_is_the_twin_in_float32_and_in_order(family):
    encoder = model(family, 3)
    found = encoder.predict(PAIRS, on_truncate="ignore")
    assert found.dtype == np.float32 and found.shape == (len(PAIRS), 3)
    np.testing.assert_allclose(found, twin_logits(encoder, PAIRS), rtol=0, atol=FLOAT32)
    assert np.abs(found[0] - found[2]).max() > 0.01  # pairs are told apart
    backwards = encoder.predict(PAIRS[::-1], on_truncate="ignore")[::-1]
    np.testing.assert_allclose(backwards, found, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("segments", [1, 2])
def test_the_second_text_of_xlm_roberta_is_segment_0(tmp_path, segments):
    """transformers gives the model token types where `model_input_names` asks for them; XLM-R's are all 0."""
    folder = shutil.copytree("weights/tiny-xlm-roberta", tmp_path / "model", copy_function=shutil.copyfile)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text()) | {"type_vocab_size": segments}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    table = "embeddings.token_type_embeddings.weight"
    tensors[table] = np.concatenate([tensors[table][:1], np.full_like(tensors[table][:1], 9)][:segments])
    save_file(tensors, folder / "model.safetensors")
    scores = CrossEncoder.from_encoder(folder).predict(SHORT)
    np.testing.assert_array_equal(scores, CrossEncoder.from_encoder("weights/tiny-xlm-roberta").predict(SHORT))


def test_segments_count_in_bert_and_not_in_mpnet():
    """The same tokens with another border between the texts."""
    for family, counts in (("bert", True), ("mpnet", False)):
        encoder = model(family)
        row = [(0, encoder.tokenize([("a dog", "a cat")]).ids[0])]
        batch = rectangle(row, 1, 16, encoder.padding_id)
        arrays = batch.token_ids_BL, batch.lengths_B
        score = partial(encoder.forward, encoder.params, "logits", *arrays)
        logits = [np.asarray(score(np.full(1, first, np.int32))) for first in (2, 4)]
        assert (np.abs(logits[0] - logits[1]).max() > 1e-3) == counts


def test_bert_refuses_an_encoder_without_a_second_segment(tmp_path):
    """JAX clamps an id out of range: both texts would silently become segment 0."""
    encoder = model("bert")
    encoder.save(tmp_path / "one")
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps({**config, "type_vocab_size": 1}))
    with pytest.raises(ModelFolderError, match="'type_vocab_size' is 1"):
        CrossEncoder(tmp_path / "one")


def test_bfloat16_stays_close_and_the_head_is_float32(tmp_path):
    encoder = model("bert")
    encoder.save(tmp_path / "model")
    coarse = CrossEncoder(tmp_path / "model", compute_dtype="bfloat16")
    assert coarse.forward.cast(coarse.params)["head"]["dense"]["kernel"].dtype == jnp.float32
    exact, found = (np.array([m.predict(pair) for pair in SHORT[:2]]) for m in (encoder, coarse))
    # 8 bits in each of some products: 4e-3 is measured on scores from 0 to 1.
    assert 0 < np.abs(exact - found).max() < 0.02
    coarse.save(tmp_path / "other")  # the parameters are float32 whatever is computed
    assert (tmp_path / "other/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


# --- rows of tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, between", [("bert", 1), ("mpnet", 2)])
def test_a_row_is_both_texts_with_the_familys_separators(family, between):
    encoder = model(family)
    single = SentenceEncoder.load(WEIGHTS / f"tiny-{family}").tokenizer
    (cls,), (sep,) = single.prefix, single.suffix
    (a, _), (b, _) = single.contents(["a dog", "the red car"])
    tokens = encoder.tokenize([("a dog", "the red car")])
    assert tokens.ids == [[cls, *a, *[sep] * between, *b, sep]]
    assert tokens.first_lengths == [len(a) + 2]
    assert tokens.token_counts() == [(5 + 2 + between, 5 + 2 + between, 0)]


def one_at_a_time(a: int, b: int, room: int) -> tuple[int, int]:
    """What "longest first" means, token by token; of equals the first text gives way."""
    while a + b > room:
        a, b = (a - 1, b) if a >= b else (a, b - 1)
    return a, b


def test_long_texts_are_read_as_far_as_their_tokens_need():
    tokenizer = model("bert").tokenizer
    texts = ["a", "a dog " * 10, "a cat " * 4000, "a red dog " * 4000]
    pairs = [(a, b) for a in texts for b in texts]
    for max_length in (19, 20):  # an odd token goes to the longer text
        for prompt in ("", "find " * 3000):
            short = tokenizer.tokenize(pairs, max_length=max_length, prompt=prompt, exact=False)
            whole = tokenizer.tokenize(pairs, max_length=max_length, prompt=prompt)
            assert short.ids == whole.ids and short.first_lengths == whole.first_lengths
            assert ((short.counts[:, 2] > 0) == (whole.counts[:, 2] > 0)).all()


def test_longest_first_takes_from_the_longer_text():
    for a in range(14):
        for b in range(14):
            for room in range(2, 24):
                kept, plain = longest_first(a, b, room), one_at_a_time(a, b, room)
                assert sum(kept) == sum(plain)
                # Where both give way an odd token is left over; it stays with the longer text.
                assert kept == plain or (sorted(kept) == sorted(plain) and a > b and kept[0] == kept[1] + 1)
                assert kept[0] <= a and kept[1] <= b


def test_token_counts_and_the_warning_report_truncation(caplog):
    encoder = model("bert", 3)
    counts = encoder.token_counts(PAIRS)
    assert all(count.tokens == count.kept + count.dropped for count in counts)
    assert max(count.kept for count in counts) == encoder.max_seq_length == 64
    cut = [row for row, count in enumerate(counts) if count.dropped]
    assert cut == [8, 9, 10, 11, 14, 15]
    encoder.predict(PAIRS)
    [warning] = [record.getMessage() for record in caplog.records]
    assert "6 of 16 pairs are longer than max_seq_length 64" in warning
    with pytest.raises(InputError, match=r"pairs\[8\] has 74 tokens, 10 more than max_seq_length 64"):
        encoder.predict(PAIRS, on_truncate="error")


# --- predict and rank ----------------------------------------------------------------------------------------------


def test_one_pair_gives_one_score():
    encoder = model("bert")
    scores = encoder.predict(SHORT)
    assert scores.shape == (8,) and ((scores > 0) & (scores < 1)).all()  # one label: sigmoid
    for one in (SHORT[2], list(SHORT[2]), np.array(SHORT[2])):
        score = encoder.predict(one)
        assert np.ndim(score) == 0
        np.testing.assert_allclose(score, scores[2], atol=FLOAT32)
    np.testing.assert_array_equal(encoder.predict(np.array(SHORT)), scores)
    assert model("bert", 3).predict(SHORT[2]).shape == (3,)


def test_activations_and_softmax():
    one, three = model("bert"), model("bert", 3)
    logits = one.predict(SHORT, activation_fn="identity")
    assert logits.min() < 0
    np.testing.assert_allclose(one.predict(SHORT), 1 / (1 + np.exp(-logits)), atol=1e-7)
    np.testing.assert_array_equal(one.predict(SHORT, activation_fn="relu"), np.maximum(logits, 0))
    np.testing.assert_array_equal(one.predict(SHORT, activation_fn=np.tanh), np.tanh(logits))
    np.testing.assert_array_equal(one.predict(SHORT, apply_softmax=True), one.predict(SHORT))
    raw = three.predict(SHORT)
    shares = three.predict(SHORT, apply_softmax=True)
    np.testing.assert_allclose(shares, np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(three.predict(SHORT, activation_fn="softmax"), shares)


def test_rank_sorts_by_score_and_equal_documents_by_number():
    encoder = model("bert")
    documents = ["a dog", "the sea by day", "a dog", "guitar", "a dog"]
    hits = encoder.rank("a cat", documents, return_documents=True)
    scores = encoder.predict([("a cat", document) for document in documents])
    assert [hit["corpus_id"] for hit in hits] == sorted(range(5), key=lambda i: (-scores[i], i))
    assert all(hit["text"] == documents[hit["corpus_id"]] for hit in hits)
    assert all(hit["score"] == float(scores[hit["corpus_id"]]) for hit in hits)
    assert encoder.rank("a cat", documents, top_k=2) == [
        {"corpus_id": hit["corpus_id"], "score": hit["score"]} for hit in hits[:2]
    ]
    assert len(encoder.rank("a cat", documents, top_k=9)) == 5


def test_habits_of_sentence_transformers(tmp_path):
    """The activation in the constructor, also a module of PyTorch, and the older name of max_seq_length."""
    sigmoid = type("Sigmoid", (), {"__module__": "torch.nn.modules.activation", "__call__": None})()
    encoder = CrossEncoder(model("bert").pretrained, activation_fn=sigmoid)
    encoder.max_length = 5
    assert encoder.max_seq_length == encoder.max_length == 5
    cut = CrossEncoder(model("bert").pretrained, activation_fn="identity", max_length=5)
    options = {"on_truncate": "ignore", "prompt": None, "prompt_name": None}
    np.testing.assert_allclose(encoder.predict(SHORT, **options), 1 / (1 + np.exp(-cut.predict(SHORT, **options))))
    encoder.activation_fn = sigmoid
    encoder.save(tmp_path / "model")
    assert CrossEncoder(tmp_path / "model").activation_fn == "sigmoid"


def test_a_prompt_is_put_before_the_first_text(tmp_path):
    """By name, as the default or as text; saved in the form of sentence-transformers 6, which has a place for prompts."""
    plain = model("bert")
    asked = [("find: " + first, second) for first, second in SHORT]
    expected = plain.predict(asked)
    encoder = CrossEncoder(plain.pretrained, prompts={"web": "find: "}, default_prompt_name="web")
    encoder.save(tmp_path / "model")
    assert not {"modules.json", "1_Pooling"} & set(plain_files(plain, tmp_path / "plain"))
    for each in (encoder, CrossEncoder(tmp_path / "model")):
        assert (each.prompts, each.default_prompt_name) == ({"web": "find: "}, "web")
        assert each.tokenize(SHORT).ids == plain.tokenize(asked).ids == plain.tokenize(SHORT, prompt="find: ").ids
        assert each.token_counts(SHORT) == plain.token_counts(asked) != each.token_counts(SHORT, prompt="")
        np.testing.assert_array_equal(each.predict(SHORT), expected)
        np.testing.assert_array_equal(each.predict(SHORT, prompt=""), plain.predict(SHORT))
        np.testing.assert_array_equal(each.predict(SHORT, "web"), expected)
        assert each.rank("a cat", ["a dog", "a car"]) == plain.rank("find: a cat", ["a dog", "a car"])
        assert each.rank("a cat", ["a dog"], 1, True, None, "") == plain.rank("a cat", ["a dog"], 1, True)
        with pytest.raises(InputError, match=r"pairs\[0\] has \d+ tokens with the prompt, \d+ more"):
            each.predict([("a cat", "word " * 100)], on_truncate="error")
    np.testing.assert_array_equal(plain.predict(SHORT, prompt="find: "), expected)
    assert CrossEncoder(encoder.pretrained).prompts == {}  # a setting of the model, not of what it was made from
    encoder.with_params(encoder.params).prompts["more"] = "more: "
    assert encoder.prompts.keys() == {"web"}  # a copy has its own
    fresh = CrossEncoder.from_encoder("weights/tiny-bert", prompts={"web": "find: "}, activation_fn="tanh")
    assert (fresh.prompts, fresh.activation_fn) == ({"web": "find: "}, "tanh")
    for wrong, words in (
        ({"prompt_name": "nope"}, r"prompt_name is 'nope'. Expected one of \['web'\]"),
        ({"prompt_name": 32}, "prompt_name is 32"),  # batch_size has its place in older versions
        ({"prompt": 3}, "prompt is 3"),
    ):
        with pytest.raises(InputError, match=words):
            encoder.predict(SHORT, **wrong)
    for wrong, words in (
        ({"prompts": "find: "}, "prompts is 'find: '"),
        ({"default_prompt_name": "nope"}, "default_prompt_name is 'nope'"),
    ):
        with pytest.raises(InputError, match=words):
            CrossEncoder(plain.pretrained, **wrong)
    encoder.prompts = {"web": 3}
    with pytest.raises(InputError, match=r"prompts\['web'\] is 3"):
        encoder.save(tmp_path / "other")


@pytest.mark.parametrize("nothing", [[], (), np.array([]), np.empty((0, 2), str), iter([])])
def test_no_pairs_have_no_scores(nothing):
    encoder = model("bert")
    scores = encoder.predict(nothing, activation_fn=lambda logits: logits - logits.max(), on_truncate="error")
    assert scores.shape == (0,) and scores.dtype == np.float32
    classes = model("bert", 3).predict([], apply_softmax=True)
    assert classes.shape == (0, 3) and classes.dtype == np.float32
    assert encoder.rank("a cat", [], top_k=3, return_documents=True) == [] == encoder.token_counts([])


EXPECTED = "Expected a pair of texts"
BAD_PAIRS = {
    "text": ("a dog", "pairs is 'a dog' (str)"),
    "None": (None, "pairs is None"),
    "a dict": ({"a": "b"}, "pairs is {'a': 'b'} (dict)"),
    "a number": (3, "pairs is 3 (int)"),
    "one side": (["a dog"], "pairs is ['a dog'], of length 1"),
    "three sides": (("a", "b", "c"), "pairs is ('a', 'b', 'c'), of length 3"),
    "one side in a list": ([("a", "b"), ("a",)], "pairs[1] is ('a',), of length 1"),
    "an empty pair": ([("a", "b"), []], "pairs[1] is [], of length 0"),
    "text among pairs": ([("a", "b"), "ab"], "pairs[1] is 'ab' (str)"),
    "None among pairs": ([("a", "b"), None], "pairs[1] is None"),
    "None as a side": ([("a", "b"), ("a", None)], "pairs[1][1] is None (NoneType)"),
    "a number as a side": (("a", 3), "pairs[1] is 3 (int)"),
    "bytes as a side": ([(b"a", "b")], "pairs[0][0] is b'a' (bytes)"),
    "an array of numbers": (np.ones((2, 2)), "pairs[0][0] is 1.0 (float)"),
    "a lone surrogate": ([("a", "\ud800")], "pairs[0][1] contains the lone surrogate"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs(name):
    pairs, told = BAD_PAIRS[name]
    for method in (model("bert").predict, model("bert").token_counts):
        with pytest.raises(InputError, match=re.escape(told)) as caught:
            method(pairs)
        assert "Expected" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m.predict(SHORT, batch_size=0), "batch_size is 0"),
        (lambda m: m.predict(SHORT, activation_fn="torch.nn.Sigmoid"), "activation_fn is 'torch.nn.Sigmoid'"),
        (lambda m: m.predict(SHORT, activation_fn=lambda x: x[:, 0]), "activation_fn returned"),
        (lambda m: m.predict(SHORT, activation_fn=lambda x: x * np.nan), "activation_fn returned"),
        (lambda m: m.predict(SHORT, activation_fn=lambda x: x.softmax(-1)), "activation_fn failed"),
        (lambda m: CrossEncoder(m.pretrained, activation_fn="gelu"), "activation_fn is 'gelu'"),
        (lambda m: setattr(m, "max_length", 4), "max_seq_length is 4"),
        (lambda m: m.predict(SHORT, apply_softmax="no"), "apply_softmax is 'no'"),
        (lambda m: m.predict(SHORT, show_progress_bar=2), "show_progress_bar is 2"),
        (lambda m: m.predict(SHORT, on_truncate="cut"), "on_truncate is 'cut'"),
        (lambda m: m.rank(None, ["a"]), "query is None"),
        (lambda m: m.rank("a", "b"), "documents is the text 'b'"),
        (lambda m: m.rank("a", ["b", 3]), "documents[1] is 3"),
        (lambda m: m.rank("a", ["b"], top_k=0), "top_k is 0"),
        (lambda m: model("bert", 3).rank("a", ["b"]), "the model has 3 labels"),
        (lambda m: setattr(m, "max_seq_length", 4), "max_seq_length is 4"),
        (lambda m: setattr(m, "max_seq_length", 65), "max_seq_length is 65"),
        (lambda m: m.save(""), "path is ''"),
        (lambda m: CrossEncoder(m.pretrained, num_labels=3), "num_labels is 3, but the model"),
        (lambda m: CrossEncoder(m.pretrained, compute_dtype="int8"), "compute_dtype is 'int8'"),
        (lambda m: CrossEncoder(3), "3"),
        (lambda m: CrossEncoder.from_encoder(m), "encoder is a CrossEncoder"),
        (lambda m: CrossEncoder.from_encoder(WEIGHTS / "tiny-bert", 0), "num_labels is 0"),
        (lambda m: CrossEncoder.from_encoder(WEIGHTS / "tiny-bert", 10**12), "num_labels is 1000000000000"),
        (lambda m: CrossEncoder.from_encoder(WEIGHTS / "tiny-bert", True), "num_labels is True"),
        (lambda m: CrossEncoder.from_encoder(WEIGHTS / "tiny-bert", seed=-1), "seed is -1"),
    ],
)
def test_bad_arguments(call, told):
    with pytest.raises(MinisbertError, match=re.escape(told)):
        call(model("bert"))


def test_a_logit_that_is_not_finite_is_refused():
    encoder = model("bert")
    params = jax.tree.map(np.array, encoder.pretrained.params)
    params["head"]["output"]["kernel"][0] = np.inf
    with pytest.raises(MinisbertError, match="not finite"):
        with_params(encoder, params).predict(SHORT[0])


# --- load, save, from_encoder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, num_labels", [("bert", 1), ("mpnet", 2)])
def test_saved_and_loaded_it_is_the_same_to_the_bit(family, num_labels, tmp_path):
    encoder = tiny(family, num_labels)
    encoder.save(tmp_path / "a")
    loaded = CrossEncoder(tmp_path / "a", num_labels=num_labels)
    before, after = flatten(encoder.pretrained.params), flatten(loaded.pretrained.params)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert repr(loaded) == repr(encoder)
    np.testing.assert_array_equal(loaded.predict(SHORT), encoder.predict(SHORT))
    loaded.save(tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_settings_are_saved(tmp_path):
    encoder = tiny("bert")
    encoder.max_seq_length, encoder.activation_fn = 20, "identity"
    encoder.save(tmp_path / "a")
    loaded = CrossEncoder(tmp_path / "a")
    assert (loaded.max_seq_length, loaded.activation_fn) == (20, "identity")
    assert max(count.kept for count in loaded.token_counts(PAIRS)) == 20
    assert CrossEncoder(tmp_path / "a", max_length=12).max_seq_length == 12
    encoder.activation_fn = np.tanh
    with pytest.raises(InputError, match="activation_fn"):
        encoder.save(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_fresh_head_follows_the_seed_and_the_encoder_is_shared():
    bi_encoder = SentenceEncoder.load(WEIGHTS / "tiny-bert")
    a, b, c = (CrossEncoder.from_encoder(bi_encoder, 2, seed=seed) for seed in (1, 1, 2))
    heads = [flatten(m.pretrained.params["head"]) for m in (a, b, c)]
    assert all(np.array_equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not np.array_equal(heads[0]["output.kernel"], heads[2]["output.kernel"])
    kernel = np.concatenate([np.ravel(head["dense.kernel"]) for head in heads[1:]])
    assert abs(kernel.std() / 0.02 - 1) < 0.1 and not np.any(heads[0]["output.bias"])  # initializer_range, 0
    encoder = a.pretrained.params["encoder"]["token_embedding"]["embedding"]
    assert encoder is bi_encoder.pretrained.params["encoder"]["token_embedding"]["embedding"]
    assert a.activation_fn == "identity" and a.num_labels == 2


def test_bert_starts_from_the_pretrained_pooler():
    bi_encoder = SentenceEncoder.load(WEIGHTS / "tiny-bert")
    pooler = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    passthrough = {"pooler.dense.weight": pooler, "pooler.dense.bias": pooler[0]}
    bi_encoder.pretrained = replace(
        bi_encoder.pretrained, original=replace(bi_encoder.pretrained.original, passthrough=passthrough)
    )
    dense = CrossEncoder.from_encoder(bi_encoder).pretrained.params["head"]["dense"]
    np.testing.assert_array_equal(dense["kernel"], pooler.T)
    np.testing.assert_array_equal(dense["bias"], pooler[0])


@pytest.mark.parametrize(
    "family, values, before, after",
    [
        ("bert", {}, 0.0, 0.1),
        ("bert", {"classifier_dropout": 0.0}, 0.0, 0.0),
        ("mpnet", {"classifier_dropout": 0.0}, 0.1, 0.1),
        ("roberta", {"classifier_dropout": 0.3}, 0.3, 0.3),
        ("distilbert", {"seq_classif_dropout": 0.4}, 0.0, 0.4),
        ("albert", {"classifier_dropout_prob": None}, 0.0, 0.1),
        ("modernbert", {}, 0.0, 0.0),
    ],
    ids=str,
)
def test_dropout_of_the_head(family, values, before, after):
    """Some have a rate of their own, the hidden layers' where it is missing; it works on either side of the dense layer."""
    encoder = CrossEncoder.from_encoder(WEIGHTS / f"tiny-{family}")
    config = encoder.model_config.encoder
    settings = Settings({**encoder.pretrained.folder.config, **values}, "config.json")
    head_config = HEADS[family].read(settings, config)
    assert (head_config.dropout_before, head_config.dropout_after) == (before, after)
    definition, _ = define_cross_encoder(replace(encoder.model_config, head=head_config))
    head = nnx.merge(definition, encoder.pretrained.params).head
    pooled_BTD = jnp.ones((3, 1, config.hidden_size))
    keys_BT = jax.random.split(jax.random.key(0), (3, 1))
    dropped, again, kept = (np.asarray(head(pooled_BTD, keys)) for keys in (keys_BT, keys_BT, None))
    np.testing.assert_array_equal(dropped, again)
    assert (np.abs(dropped - kept).max() > 0) == (max(before, after) > 0)
    assert (np.ptp(dropped) > 0) == (max(before, after) > 0)  # each pair has its own mask
    np.testing.assert_allclose(np.asarray(head(pooled_BTD[:1], keys_BT[1:2]))[0], dropped[1], atol=FLOAT32)


def test_the_head_decays_as_matrices_do():
    mask = decays(model("bert").pretrained.params["head"])
    assert mask == {part: {"kernel": True, "bias": False} for part in ("dense", "output")}
