"""What callers of sentence-transformers pass and ask for: keywords, names, iterables, pickling, forked processes."""

import copy
import multiprocessing
import os
import pickle
from enum import Enum

import numpy as np
import pytest

from minisbert import CrossEncoder, SentenceEncoder, quantize_embeddings
from minisbert.errors import DownloadError, InputError, MinisbertError
from minisbert.inference.callers import ABSENT

TEXTS = ["a cat sleeps", "two dogs run in the city"]


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder("weights/tiny-bert")


@pytest.fixture(scope="module")
def expected(encoder):
    return encoder.encode(TEXTS)


@pytest.mark.parametrize(
    "keywords",
    [
        {"convert_to_numpy": True},
        {"convert_to_tensor": False, "convert_to_numpy": True},
        {"device": None},
        {"device": "cpu"},
        {"pool": None, "chunk_size": None},
        {"chunk_size": 5000},
    ],
)
def test_keywords_that_change_nothing(encoder, expected, keywords):
    assert np.array_equal(encoder.encode(TEXTS, **keywords), expected)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"convert_to_tensor": True}, "torch.from_numpy"),
        ({"convert_to_numpy": False}, "convert_to_numpy=False"),
        ({"device": "cuda"}, "JAX_PLATFORMS"),
        ({"device": ["cpu", "cpu"]}, "device=\\['cpu', 'cpu'\\]"),
        ({"pool": {"processes": 2}}, "--workers"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"num_workers": 2}, "num_workers=2"),
        ({"batchsize": 3}, "keyword 'batchsize'"),
    ],
)
def test_keywords_that_would_change_something(encoder, keywords, words):
    with pytest.raises(InputError, match=words):
        encoder.encode(TEXTS, **keywords)


def test_save_pretrained_is_save(encoder, expected, tmp_path):
    encoder.save_pretrained(tmp_path / "model")
    assert np.array_equal(SentenceEncoder(tmp_path / "model").encode(TEXTS), expected)


def test_the_first_argument_may_be_named_inputs(encoder, expected):
    for method in (encoder.encode, encoder.encode_query, encoder.encode_document):
        assert np.array_equal(method(inputs=TEXTS), expected)
    model = CrossEncoder.from_encoder("weights/tiny-bert")
    pairs = [(TEXTS[0], TEXTS[1])]
    assert np.array_equal(model.predict(inputs=pairs), model.predict(pairs))
    assert np.array_equal(model.predict(sentences=pairs), model.predict(pairs))  # as in version 5
    with pytest.raises(InputError, match="sentences and inputs are both given"):
        encoder.encode(TEXTS, inputs=TEXTS)
    with pytest.raises(InputError, match="sentences is None"):
        encoder.encode()


@pytest.mark.parametrize("kind", [SentenceEncoder, CrossEncoder])
def test_keywords_of_the_class(kind):
    """Those that change nothing are taken; the others are refused before anything is read."""
    nothing = {"device": "cpu", "trust_remote_code": True, "token": None, "model_kwargs": {}, "backend": "torch"}
    kind(
        "weights/tiny-bert" if kind is SentenceEncoder else CrossEncoder.from_encoder("weights/tiny-bert").pretrained,
        **nothing,
    )
    for keyword, value, words in (
        ("device", "cuda", "JAX_PLATFORMS"),
        ("trust_remote_code", 1, "code in a folder is never run"),
        ("model_kwargs", {"torch_dtype": "bfloat16"}, "bfloat16 is `compute_dtype`"),
        ("model_kwargs", {"attn_implementation": "sdpa", "no_such_key": 1}, "bfloat16 is `compute_dtype`"),
        ("tokenizer_kwargs", {"model_max_length": 64}, "the folder has these settings"),
        ("backend", "onnx", "models are computed by JAX"),
        ("automodel_args", {"torch_dtype": "bfloat16"}, "bfloat16 is `compute_dtype`"),
        ("keep_in_fp32_modules", ["score"], "heads are computed in float32"),
    ):
        with pytest.raises(InputError, match=f"{kind.__name__} got {keyword}=.*{words}"):
            kind("not/there", **{keyword: value})
    with pytest.raises(InputError, match=f"{kind.__name__} got the keyword 'truncate_dims'. Expected .* docstring"):
        kind("not/there", truncate_dims=2)


def test_arguments_for_transformers_that_change_nothing(encoder, expected):
    torch = pytest.importorskip("torch")
    nothing = {"model_kwargs": {"attn_implementation": "eager", "torch_dtype": torch.float32}}
    nothing |= {"tokenizer_kwargs": {"use_fast": True}, "config_kwargs": {"use_cache": False}}
    assert np.array_equal(SentenceEncoder(encoder.pretrained, **nothing).encode(TEXTS), expected)


def test_arguments_under_their_names_in_sentence_transformers(encoder, expected, tmp_path):
    """Of the classes, of earlier versions' activations, of `similarity` and of `save`."""
    named = SentenceEncoder(model_name_or_path="weights/tiny-bert", cache_folder=str(tmp_path), local_files_only=True)
    assert np.array_equal(named.encode(TEXTS), expected)
    with pytest.raises(DownloadError, match="offline"):
        SentenceEncoder(model_name_or_path="org/name", cache_folder=str(tmp_path), local_files_only=True)
    scorer = CrossEncoder.from_encoder("weights/tiny-bert").pretrained
    pairs = [tuple(TEXTS)]
    logits = CrossEncoder(model_name=scorer, default_activation_function="identity").predict(pairs)
    assert np.array_equal(CrossEncoder(scorer).predict(pairs, activation_fct="identity"), logits)
    same = encoder.similarity(embeddings1=expected, embeddings2=expected)
    pairwise = encoder.similarity_pairwise(embeddings1=expected, embeddings2=expected)
    np.testing.assert_allclose(pairwise, same.diagonal(), rtol=1e-6)  # two programs; 1.2e-7 is measured
    for kind, model in ((SentenceEncoder, encoder), (CrossEncoder, CrossEncoder(scorer))):
        model.save_pretrained(tmp_path / kind.__name__, create_model_card=False, safe_serialization=True)
        kind(tmp_path / kind.__name__)
        with pytest.raises(InputError, match="save got safe_serialization=False"):
            model.save(tmp_path / "model", safe_serialization=False)
        with pytest.raises(InputError, match="cache and cache_folder are both given"):
            kind(model.pretrained, cache="models", cache_folder="models")


def test_settings_instead_of_the_folders(encoder, expected, tmp_path):
    """As sentence-transformers takes them: prompts are added to the folder's, the others replace it."""
    settings = {"truncate_dim": 8, "default_prompt_name": "who", "similarity_fn_name": "dot"}
    changed = SentenceEncoder("weights/tiny-bert", prompts={"who": "who: "}, **settings)
    assert changed.prompts == {**encoder.prompts, "who": "who: "}
    assert np.array_equal(changed.encode(TEXTS), encoder.encode(TEXTS, prompt="who: ", truncate_dim=8))
    assert np.array_equal(changed.similarity(expected, expected), expected @ expected.T)
    changed.save(tmp_path / "model")
    assert SentenceEncoder(tmp_path / "model").prompts == changed.prompts
    assert np.array_equal(SentenceEncoder(changed.pretrained, prompts=None).encode(TEXTS), expected)
    for wrong, words in (
        ({"prompts": "who: "}, "prompts is 'who: '. Expected a dict"),
        ({"default_prompt_name": "what"}, "prompt_name is 'what'. Expected one of"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"similarity_fn_name": "cosin"}, "similarity_fn_name is 'cosin'"),
    ):
        with pytest.raises(InputError, match=words):
            SentenceEncoder("weights/tiny-bert", **wrong)


@pytest.mark.parametrize(
    "given", [iter(TEXTS), dict(enumerate(TEXTS)).values(), dict.fromkeys(TEXTS).keys(), (t for t in TEXTS)]
)
def test_iterables_of_texts(encoder, expected, given):
    assert np.array_equal(encoder.encode(given), expected)


@pytest.mark.parametrize("given", [set(TEXTS), dict.fromkeys(TEXTS), b"text", 3, None, np.array([TEXTS])])
def test_what_has_no_order_or_no_texts(encoder, given):
    with pytest.raises(InputError, match="Expected a string or a list of strings"):
        encoder.encode(given)


def test_prompts_by_position_and_no_named_similarity(encoder, expected):
    encoder = copy.copy(encoder)
    encoder.prompts = {"query": "who: ", "passage": "what: "}
    for method, own in ((encoder.encode_query, "query"), (encoder.encode_document, "passage")):
        assert np.array_equal(method(TEXTS), encoder.encode(TEXTS, own))
        assert np.array_equal(method(TEXTS, "query"), encoder.encode(TEXTS, "query"))
        assert np.array_equal(method(TEXTS, None, ""), expected)
    cosines = encoder.similarity(expected, expected)
    encoder.similarity_fn_name = Enum("SimilarityFunction", {"DOT_PRODUCT": "dot"}).DOT_PRODUCT
    assert np.array_equal(encoder.similarity(expected, expected), expected @ expected.T)
    encoder.similarity_fn_name = None
    assert encoder.similarity_fn_name == "cosine"
    assert np.array_equal(encoder.similarity(expected, expected), cosines)


def test_one_embedding_is_quantized(expected):
    ranges = np.stack([expected.min(axis=0) - 1, expected.max(axis=0) + 1])
    for precision in ("float32", "int8", "uint8", "binary", "ubinary"):
        one = quantize_embeddings(expected[0], precision, ranges)
        assert np.array_equal(one, quantize_embeddings(expected, precision, ranges)[0])
    with pytest.raises(InputError, match="no range to divide"):
        quantize_embeddings(expected[0], "int8")


def test_names(encoder):
    assert encoder.get_max_seq_length() == encoder.max_seq_length
    features, counts = encoder.tokenize(TEXTS), encoder.token_counts(TEXTS)
    assert features["attention_mask"].sum(axis=1).tolist() == [one.kept for one in counts]
    assert features["input_ids"].shape == (2, max(one.kept for one in counts))
    assert encoder.tokenize([])["input_ids"].shape == (0, 0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_compute_the_same(encoder, expected, duplicate):
    again = duplicate(encoder)
    assert np.array_equal(again.encode(TEXTS), expected) and again.forward is not encoder.forward
    router = SentenceEncoder("weights/tiny-router")
    assert np.array_equal(duplicate(router).encode_query(TEXTS), router.encode_query(TEXTS))
    scorer = CrossEncoder.from_encoder("weights/tiny-bert")
    pairs = [tuple(TEXTS)]
    assert np.array_equal(duplicate(scorer).predict(pairs, convert_to_numpy=True), scorer.predict(pairs))


def test_a_shallow_copy_shares_the_compiled_programs(encoder, expected):
    assert copy.copy(encoder).forward is encoder.forward


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_process_is_told_why_it_cannot_compute(encoder, expected):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            encoder.encode(TEXTS)
            os.write(write, b"computed")
        except MinisbertError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.wait()
    assert b"fork" in os.read(read, 1000)
    assert np.array_equal(encoder.encode(TEXTS), expected)


def test_a_spawned_process_computes(encoder, expected):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.map(encoder.encode, [TEXTS])[0], expected)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("similarity_fn_name", "Cosine", "similarity_fn_name is 'Cosine'"),
        ("default_prompt_name", "nope", "prompt_name is 'nope'"),
        ("truncate_dim", 0, "truncate_dim is 0"),
        ("truncate_dim", "8", "truncate_dim is '8'"),
        (
            "prompts",
            {"query": "x" * 1_000_000},
            r"transformers\.json would have 1000088 bytes\. Expected at most 1000000,",
        ),
    ],
)
def test_what_could_not_be_read_back_is_not_saved(setting, value, message, tmp_path):
    encoder = SentenceEncoder("weights/tiny-bert")
    encoder.save(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        setattr(encoder, setting, value)
        encoder.save(tmp_path / "model")
    assert SentenceEncoder(tmp_path / "model").similarity_fn_name == "cosine"


@pytest.mark.parametrize("make", [SentenceEncoder, CrossEncoder.from_encoder])
def test_what_is_absent_says_what_to_do_instead(make):
    model = make("weights/tiny-bert")
    for name, advice in ABSENT.items():
        assert not hasattr(model, name)
        with pytest.raises(AttributeError, match=f"no attribute '{name}': ") as caught:
            getattr(model, name)
        assert str(caught.value).endswith(advice)
    with pytest.raises(AttributeError, match=r"has no attribute 'encod'$"):
        _ = model.encod


def test_whole_numbers_of_numpy_are_saved(tmp_path):
    encoder = SentenceEncoder("weights/tiny-bert")
    encoder.max_seq_length, encoder.truncate_dim = np.int64(32), np.int64(8)
    encoder.save(tmp_path / "model")
    loaded = SentenceEncoder(tmp_path / "model")
    assert (loaded.max_seq_length, loaded.truncate_dim) == (32, 8)
    CrossEncoder.from_encoder("weights/tiny-bert", max_length=np.int64(30)).save(tmp_path / "cross")
    assert CrossEncoder(tmp_path / "cross").max_seq_length == 30


def test_tables_of_pandas_are_refused_and_columns_are_not(encoder, expected):
    pandas = pytest.importorskip("pandas")
    assert np.array_equal(encoder.encode(pandas.Series(TEXTS)), expected)
    for table in (pandas.DataFrame({"text": TEXTS}), pandas.NA, pandas.Timestamp("2020-01-01")):
        with pytest.raises(InputError, match="Expected a string or a list of strings"):
            encoder.encode(table)


def test_pairs_come_in_anything_with_an_order():
    model = CrossEncoder.from_encoder("weights/tiny-bert")
    pairs = [("a cat", "a dog"), ("rain", "snow")]
    expected = model.predict(pairs)
    forms = [
        iter(pairs),
        zip(*zip(*pairs, strict=True), strict=True),
        np.array(pairs),
        [np.array(pair) for pair in pairs],
    ]
    pandas = pytest.importorskip("pandas")
    forms += [pandas.Series(pairs), pandas.DataFrame(pairs).values]
    for form in forms:
        assert np.array_equal(model.predict(form), expected)
    for wrong in (pandas.DataFrame(pairs), set(pairs), dict(pairs), "ab"):
        with pytest.raises(InputError, match="Expected a pair of texts"):
            model.predict(wrong)


def test_pairs_are_checked_by_tokenize_too():
    model = CrossEncoder.from_encoder("weights/tiny-bert")
    for pairs, message in (
        ([("a",)], "of length 1"),
        ([("a", "b", "c")], "of length 3"),
        ([("a", 5)], r"\[0\]\[1\] is 5"),
    ):
        with pytest.raises(InputError, match=message):
            model.tokenize(pairs)


def test_an_activation_of_pytorch_is_the_function_of_that_name():
    torch = pytest.importorskip("torch")
    model = CrossEncoder.from_encoder("weights/tiny-bert")
    for name, module in (("sigmoid", torch.nn.Sigmoid()), ("tanh", torch.nn.Tanh())):
        assert np.array_equal(
            model.predict(("a", "b"), activation_fn=module), model.predict(("a", "b"), activation_fn=name)
        )


def test_softmax_of_pytorch_is_over_the_labels():
    torch = pytest.importorskip("torch")
    model, pairs = CrossEncoder.from_encoder("weights/tiny-bert", num_labels=3), [("a", "b"), ("c", "d")]
    shares = model.predict(pairs, activation_fn=torch.nn.Softmax(dim=-1))
    assert np.array_equal(shares, model.predict(pairs, apply_softmax=True))
    with pytest.raises(InputError, match="activation_fn failed"):  # over the pairs: another function
        model.predict(pairs, activation_fn=torch.nn.Softmax(dim=0))
