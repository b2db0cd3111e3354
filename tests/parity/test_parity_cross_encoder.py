"""minisbert's CrossEncoder against sentence-transformers' and transformers', on random BERT and MPNet classifiers.

Token ids identical, logits and scores within 2e-6, folders written by either and read by the other, rank, every loss,
and training runs without dropout step by step. Needs the `parity` extra; skipped where it is not installed.
"""

import json
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minisbert import CrossEncoder, InputError, ModelFolderError, SentenceEncoder, TrainConfig, train
from minisbert.checkpoint.convert import flatten
from minisbert.cross_encoder.losses import CROSS_ENCODER_LOSSES, in_batch_negatives
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.cross_encoder.training import cross_encoder_batch
from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batch, Batches
from minisbert.download.locate import locate
from minisbert.errors import DownloadError
from minisbert.training.siamese import initial_state, make_update, packed_embed, siamese_loss, train_step
from minisbert.training.targets import Targets

sys.path.insert(0, str(Path(__file__).parents[1]))
from cross_encoder_cases import FAMILIES, PAIRS, WEIGHTS, tiny

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)
peers = pytest.importorskip("sentence_transformers", reason=WHY)
from sentence_transformers.cross_encoder import losses as theirs  # noqa: E402

pytestmark = pytest.mark.parity

# On logits of size 1 (5e-7 is measured), relative above.
TOLERANCE = 2e-6
# Parameters after three steps of plain gradient descent, relative to the largest change of a tensor: two float32
# implementations that add in another order; 2e-5 is measured.
STEPS = 1e-3
CLASSES = {
    name: f"{kind}ForSequenceClassification"
    for name, kind in {
        "bert": "Bert",
        "mpnet": "MPNet",
        "roberta": "Roberta",
        "xlm-roberta": "XLMRoberta",
        "distilbert": "DistilBert",
        "albert": "Albert",
        "modernbert": "ModernBert",
        "electra": "Electra",
        "ernie": "Ernie",
        "gte": "Gte",
        "deberta-v2": "DebertaV2",
    }.items()
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peer(folder: Path, **options):
    return peers.CrossEncoder(str(folder), device="cpu", local_files_only=True, **options)


def random_classifier(family: str, num_labels: int, folder: Path, **settings) -> Path:
    """A plain transformers folder with wide random weights, made by sentence-transformers alone."""
    torch.manual_seed(num_labels)
    like = {"electra": "bert", "ernie": "bert"}.get(family, family)
    values = json.loads((WEIGHTS / f"tiny-{like}" / "config.json").read_text()) | {
        "initializer_range": 0.2,
        **settings,
    }
    values = {key: value for key, value in values.items() if key not in ("architectures", "model_type")}
    kind = getattr(transformers, CLASSES[family])
    model = kind(kind.config_class(**values, num_labels=num_labels))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(str(WEIGHTS / f"tiny-{like}")).save_pretrained(folder)
    return folder


def close(ours, theirs, what: str) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, what
    difference = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
    assert difference <= TOLERANCE, f"{what}: differs by {difference:.2e}"


def identity(x):
    return x


def same(ours: CrossEncoder, other, what: str) -> None:
    for pair, ids in zip(PAIRS, ours.tokenize(PAIRS).ids, strict=True):
        assert ids == other.preprocess([pair])["input_ids"][0].tolist(), f"{what}: {pair!r:.100}"
    assert (ours.num_labels, ours.max_seq_length) == (other.num_labels, other.max_seq_length), what
    close(ours.predict(PAIRS, on_truncate="ignore"), other.predict(PAIRS), what)
    raw = ours.predict(PAIRS, activation_fn="identity", on_truncate="ignore")
    close(raw, other.predict(PAIRS, activation_fn=identity), f"{what}, logits")


@pytest.mark.parametrize(
    "family, num_labels",
    [("bert", 2), *((f, n) for f in FAMILIES for n in (1, 5)), *((f, 1) for f in CLASSES if f not in FAMILIES)],
)
def test_folders_of_both_are_read_by_both(family, num_labels, tmp_path):
    """A plain transformers folder, and sentence-transformers' newer form, each -> ours -> sentence-transformers."""
    plain = random_classifier(family, num_labels, tmp_path / "plain")
    other = peer(plain)
    same(CrossEncoder(plain), other, "plain")
    other.save(str(tmp_path / "new"))
    assert (tmp_path / "new" / "modules.json").exists()
    for source in ("plain", "new"):
        ours = CrossEncoder(tmp_path / source)
        ours.save(tmp_path / f"{source}-ours")
        written = peer(tmp_path / f"{source}-ours")
        assert type(written.activation_fn) is type(other.activation_fn)
        assert (written.predict(PAIRS) == other.predict(PAIRS)).all()
        same(CrossEncoder(tmp_path / f"{source}-ours"), other, source)
    kind = getattr(transformers, CLASSES[family])
    before, after = (kind.from_pretrained(str(tmp_path / name)).state_dict() for name in ("plain", "plain-ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_alone_gives_the_same_logits(family, tmp_path):
    """Padded batches of transformers, without sentence-transformers."""
    folder = random_classifier(family, 3, tmp_path / "model")
    model = getattr(transformers, CLASSES[family]).from_pretrained(str(folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    first, second = (list(side) for side in zip(*PAIRS, strict=True))
    rows = tokenizer(first, second, padding=True, truncation="longest_first", max_length=64, return_tensors="pt")
    with torch.no_grad():
        logits = model(**rows).logits.numpy()
    close(CrossEncoder(folder).predict(PAIRS, on_truncate="ignore"), logits, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [7, 8, 9, 20, 33])
def test_truncation_at_every_border(family, limit, tmp_path):
    folder = random_classifier(family, 1, tmp_path / "model")
    ours, other = CrossEncoder(folder, max_length=limit), peer(folder)
    other.max_seq_length = limit
    texts = ["", "a", "a cat", "the man and", "the woman and child", "one two one two one two one", "word " * 40]
    pairs = [(a, b) for a in texts for b in texts]
    tokens = ours.tokenize(pairs)
    for row, pair in enumerate(pairs):
        features = other.preprocess([pair])
        assert tokens.ids[row] == features["input_ids"][0].tolist(), pair
        if "token_type_ids" in features:
            assert tokens.first_lengths[row] == int((features["token_type_ids"] == 0).sum()), pair


@pytest.mark.parametrize("name", ["Identity", "Sigmoid", "Tanh", "ReLU"])
def test_activations_saved_by_either(name, tmp_path):
    folder = random_classifier("bert", 1, tmp_path / "model")
    other = peer(folder, activation_fn=getattr(torch.nn, name)())
    other.save(str(tmp_path / "theirs"))
    ours = CrossEncoder(tmp_path / "theirs")
    assert ours.activation_fn == name.lower()
    close(ours.predict(PAIRS[:3]), other.predict(PAIRS[:3]), name)
    ours.save(tmp_path / "ours")
    assert type(peer(tmp_path / "ours").activation_fn) is getattr(torch.nn, name)


def test_softmax_and_rank(tmp_path):
    three, one = random_classifier("bert", 3, tmp_path / "three"), random_classifier("bert", 1, tmp_path / "one")
    close(
        CrossEncoder(three).predict(PAIRS[:3], apply_softmax=True),
        peer(three).predict(PAIRS[:3], apply_softmax=True),
        "",
    )
    documents = [text for pair in PAIRS[:8] for text in pair]
    ours = CrossEncoder(one).rank("a dog", documents, top_k=5, return_documents=True)
    others = peer(one).rank("a dog", documents, top_k=5, return_documents=True)
    assert [(hit["corpus_id"], hit["text"]) for hit in ours] == [(hit["corpus_id"], hit["text"]) for hit in others]
    np.testing.assert_allclose([hit["score"] for hit in ours], [hit["score"] for hit in others], atol=TOLERANCE)


def test_prompts(tmp_path):
    """Saved by either, read by the other; a name, a text, the default, and none, also where pairs are cut."""
    prompts = {"web": "find the web page: ", "none": ""}
    other = peer(
        random_classifier("bert", 1, tmp_path / "model"), prompts=prompts, default_prompt_name="web", max_length=20
    )
    other.save(str(tmp_path / "theirs"))
    ours = CrossEncoder(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    documents = [text for pair in PAIRS[:8] for text in pair]
    for one, two in ((ours, other), (CrossEncoder(tmp_path / "ours"), peer(tmp_path / "ours"))):
        assert (one.prompts, one.default_prompt_name) == (two.prompts, two.default_prompt_name) == (prompts, "web")
        same_rows = zip(one.tokenize(PAIRS).ids, PAIRS, strict=True)
        assert all(
            ids == two.preprocess([pair], prompt=prompts["web"])["input_ids"][0].tolist() for ids, pair in same_rows
        )
        for given in ({}, {"prompt_name": "none"}, {"prompt": "query: "}, {"prompt": ""}):
            close(one.predict(PAIRS, on_truncate="ignore", **given), two.predict(PAIRS, **given), str(given))
        close(one.predict(PAIRS[:3], "web"), two.predict(PAIRS[:3], "web"), "by position")
        hits = one.rank("a dog", documents, on_truncate="ignore"), two.rank("a dog", documents)
        assert [hit["corpus_id"] for hit in hits[0]] == [hit["corpus_id"] for hit in hits[1]]


def test_a_prompt_that_the_pooling_leaves_out(tmp_path):
    """A reranker of modules whose pooling has include_prompt false: refused with a prompt, the same scores without."""
    folder = reranker("bert", tmp_path / "model", "mean", [32, 1])
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"include_prompt": False}))
    ours, other = CrossEncoder(folder, prompts={"web": "find: "}), peer(folder)
    close(ours.predict(PAIRS, on_truncate="ignore"), other.predict(PAIRS), "without")
    assert (
        np.abs(
            other.predict(PAIRS[:3], prompt="find: ") - other.predict([("find: " + a, b) for a, b in PAIRS[:3]])
        ).max()
        > 1e-4
    )
    with pytest.raises(InputError, match="include_prompt false"):
        ours.predict(PAIRS[:3], "web")
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.0, 1.0]}
    config = TrainConfig(rows, loss="binary_cross_entropy", batch_size=2, max_steps=1, prompts="find: ")
    with pytest.raises(InputError, match="include_prompt false"):
        train(ours, config, show_progress=False)
    ours.save(tmp_path / "ours")
    assert CrossEncoder(tmp_path / "ours").prompts == peer(tmp_path / "ours").prompts == {"web": "find: "}


@pytest.mark.parametrize(
    "values",
    [
        {"classifier_pooling": "mean"},
        {"classifier_pooling": "mean", "classifier_bias": True, "classifier_activation": "silu"},
    ],
    ids=str,
)
def test_modernberts_head_has_settings(values, tmp_path):
    folder = random_classifier("modernbert", 2, tmp_path / "model", **values)
    same(CrossEncoder(folder), peer(folder), str(values))


@pytest.mark.parametrize("names", [["token_type_ids"], []], ids=str)
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_tokenizer_says_whether_there_are_segments(family, names, tmp_path):
    """BERT's class has them and ALBERT's has not, unless `model_input_names` says otherwise."""
    folder = random_classifier(family, 1, tmp_path / "model")
    file = folder / "tokenizer_config.json"
    inputs = ["input_ids", "attention_mask", *names]
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": inputs}))
    ours = CrossEncoder(folder)
    assert ours.model_config.segments == bool(names)
    same(ours, peer(folder), f"{family} {names}")


def reranker(family: str, folder: Path, pooling: str, widths: list[int], **options) -> Path:
    """A cross-encoder of modules, made by sentence-transformers: pooling, then Dense and LayerNorm in turn."""
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(0)
    transformer = modules.Transformer(str(WEIGHTS / f"tiny-{family}"), max_seq_length=40)
    chain: list[torch.nn.Module] = [transformer, modules.Pooling(widths[0], pooling_mode=pooling)]
    for a, b in pairwise(widths[:-1]):
        dense = modules.Dense(a, b, activation_function=torch.nn.GELU(), **options)
        chain += [dense, modules.LayerNorm(b)]
        torch.nn.init.normal_(chain[-1].norm.weight, 1.0)
    chain.append(modules.Dense(*widths[-2:], activation_function=torch.nn.Identity(), module_output_name="scores"))
    peers.CrossEncoder(modules=chain, device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "family, pooling, widths, options",
    [
        ("modernbert", "cls", [24, 24, 1], {}),
        ("bert", "mean", [32, 1], {}),
        ("mpnet", "max", [36, 20, 28, 3], {}),
        ("roberta", "lasttoken", [36, 36, 18, 1], {"use_residual": True}),
    ],
    ids=str,
)
def test_rerankers_of_modules(family, pooling, widths, options, tmp_path):
    """Read, written, read by sentence-transformers, and refused by the class for single texts."""
    folder = reranker(family, tmp_path / "theirs", pooling, widths, **options)
    ours, other = CrossEncoder(folder), peer(folder)
    same(ours, other, "read")
    ours.save(tmp_path / "ours")
    assert (peer(tmp_path / "ours").predict(PAIRS) == other.predict(PAIRS)).all()
    same(CrossEncoder(tmp_path / "ours"), other, "written and read")
    with pytest.raises(ModelFolderError, match=r"load it with CrossEncoder"):
        SentenceEncoder.load(tmp_path / "ours")


@pytest.mark.parametrize("family", [*FAMILIES, "albert", "modernbert"])
def test_a_fresh_head_is_read_by_the_peer(family, tmp_path):
    ours = CrossEncoder.from_encoder(WEIGHTS / f"tiny-{family}", 2, seed=5)
    ours.save(tmp_path / "model")
    same(ours, peer(tmp_path / "model"), family)


@pytest.mark.real
def test_a_fresh_head_on_a_real_encoder(tmp_path):
    """BERT's pretrained pooler is sentence-transformers' too."""
    try:
        folder = locate("all-MiniLM-L6-v2", offline=True)
    except DownloadError:
        pytest.skip("all-MiniLM-L6-v2 is not in the cache: minisbert download all-MiniLM-L6-v2")
    ours = CrossEncoder.from_encoder(folder, 2)
    ours.save(tmp_path / "model")
    close(ours.predict(PAIRS[:5]), peer(tmp_path / "model").predict(PAIRS[:5]), "logits")
    pooler = transformers.AutoModel.from_pretrained(str(folder)).pooler.dense.weight.detach().numpy()
    np.testing.assert_array_equal(ours.pretrained.params["head"]["dense"]["kernel"], pooler.T)


# --- losses --------------------------------------------------------------------------------------------------------

B = 6
RNG = np.random.default_rng(0)
TARGETS = {
    "binary_cross_entropy": RNG.uniform(size=B).astype(np.float32),
    "cross_entropy": RNG.integers(0, 3, B),
    "mse": 5 * RNG.normal(size=B).astype(np.float32),
    "margin_mse": 5 * RNG.normal(size=(B, 2)).astype(np.float32),
}
RELEVANCE = np.array([[3, 0, 1], [0, 1, 0], [0, 2, 1], [0, 0, 0], [2, 1, 0], [1, 2, 3]], np.float32)
LOSSES = {
    "binary_cross_entropy": (theirs.BinaryCrossEntropyLoss, 1, 1),
    "cross_entropy": (theirs.CrossEntropyLoss, 1, 3),
    "mse": (theirs.MSELoss, 1, 1),
    "margin_mse": (theirs.MarginMSELoss, 3, 1),
}
SCHEMES = {
    "none": "NoWeightingScheme",
    "ndcg_loss1": "NDCGLoss1Scheme",
    "ndcg_loss2": "NDCGLoss2Scheme",
    "lambda_rank": "LambdaRankScheme",
    "ndcg_loss2pp": "NDCGLoss2PPScheme",
}
LISTS = [
    ("rank_net", theirs.RankNetLoss, {}),
    ("rank_net", theirs.RankNetLoss, {"k": 1, "sigma": 0.5, "reduction_log": "natural"}),
    ("lambda_loss", theirs.LambdaLoss, {}),
    ("lambda_loss", theirs.LambdaLoss, {"k": 2}),
    *(("lambda_loss", theirs.LambdaLoss, {"weighting_scheme": name}) for name in SCHEMES),
    ("list_net", theirs.ListNetLoss, {}),
    ("list_mle", theirs.ListMLELoss, {}),
    ("list_mle", theirs.ListMLELoss, {"respect_input_order": False}),
    ("p_list_mle", theirs.PListMLELoss, {}),
    ("adr_mse", theirs.ADRMSELoss, {}),
    ("adr_mse", theirs.ADRMSELoss, {"alpha": 2.0}),
]


class Stub(peers.CrossEncoder):
    """A model that hands out the logits it is given, pair after pair."""

    def __init__(self, logits_SBC):
        torch.nn.Module.__init__(self)
        self.rows = logits_SBC.reshape(-1, logits_SBC.shape[-1])

    num_labels = property(lambda self: self.rows.shape[1])
    device = torch.device("cpu")

    def preprocess(self, pairs, **options):
        return {"row": torch.tensor([int(document) for _, document in pairs])}

    def forward(self, features):
        return {"scores": self.rows[features["row"]]}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_the_peers(name):
    make, S, C = LOSSES[name]
    logits = 3 * np.random.default_rng(1).normal(size=(S, B, C)).astype(np.float32)
    ours = jax.value_and_grad(CROSS_ENCODER_LOSSES[name].function)(
        jnp.asarray(logits), Targets(labels_B=jnp.asarray(TARGETS[name]))
    )
    leaf = torch.tensor(logits, requires_grad=True)
    columns = [["query"] * B, *[[str(s * B + b) for b in range(B)] for s in range(S)]]
    value = make(Stub(leaf))(columns, torch.tensor(TARGETS[name]))
    value.backward()
    np.testing.assert_allclose(float(ours[0]), value.item(), rtol=1e-5)
    np.testing.assert_allclose(ours[1], leaf.grad.numpy(), atol=1e-5 * float(leaf.grad.abs().max()))


@pytest.mark.parametrize("sizes", [[3] * B, [3, 1, 2, 3, 2, 2]], ids=["even", "uneven"])
@pytest.mark.parametrize("name, make, options", LISTS)
def test_a_loss_of_lists_and_its_gradient_are_the_peers(name, make, options, sizes):
    logits = 3 * np.random.default_rng(1).normal(size=(3, B, 1)).astype(np.float32)
    known = RELEVANCE + (np.arange(3, dtype=np.float32) / 8 if "respect_input_order" in options else 0)  # no ties
    known = np.where(np.arange(3) < np.array(sizes)[:, None], known, np.nan).astype(np.float32)
    ours = jax.value_and_grad(partial(CROSS_ENCODER_LOSSES[name].function, **options))(
        jnp.asarray(logits), Targets(labels_B=jnp.asarray(known))
    )
    leaf = torch.tensor(logits, requires_grad=True)
    if "weighting_scheme" in options:
        module = sys.modules["sentence_transformers.cross_encoder.losses.lambda_loss"]
        options = {"weighting_scheme": getattr(module, SCHEMES[options["weighting_scheme"]])()}
    inputs = [["query"] * B, [[str(s * B + b) for s in range(size)] for b, size in enumerate(sizes)]]
    value = make(Stub(leaf), **options)(
        inputs, [torch.tensor(row[:size]) for row, size in zip(known, sizes, strict=True)]
    )
    value.backward()
    np.testing.assert_allclose(float(ours[0]), value.item(), rtol=1e-5)
    np.testing.assert_allclose(ours[1], leaf.grad.numpy(), atol=1e-5 * float(leaf.grad.abs().max()))


def test_multiple_negatives_are_the_peers():
    """All documents of other queries; theirs draws some of them."""
    logits = 3 * np.random.default_rng(1).normal(size=(2, B, 1)).astype(np.float32)
    columns = [["query"] * B, *[[str(s * B + b) for b in range(B)] for s in range(2)]]
    extended = in_batch_negatives(Batch(0, 0, np.arange(B), columns, None), num_negatives=None)
    index_SB = np.array(extended.texts[1:], int)
    loss = CROSS_ENCODER_LOSSES["multiple_negatives_ranking"].function

    def ours(logits_SBC):
        return loss(logits_SBC.reshape(-1, 1)[index_SB], Targets())

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
    leaf = torch.tensor(logits, requires_grad=True)
    their = theirs.MultipleNegativesRankingLoss(Stub(leaf), num_negatives=None)(columns, None)
    their.backward()
    np.testing.assert_allclose(float(value), their.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-5 * float(leaf.grad.abs().max()))


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["binary_cross_entropy", "cross_entropy", "margin_mse"])
def test_three_steps_are_torchs(family, name, tmp_path):
    """The same rows through both, dropout off, plain gradient descent: losses and every parameter."""
    make, S, C = LOSSES[name]
    words = "man woman child dog cat water red blue green walk run eat play sing music guitar".split()
    random = np.random.default_rng(3)

    def sentence() -> str:
        return " ".join(random.choice(words, random.integers(2, 6)))

    header = {
        "binary_cross_entropy": "sentence1\tsentence2\tscore",
        "cross_entropy": "sentence1\tsentence2\tlabel",
        "margin_mse": "query\tdocument\tnegative\tnegative_2\tmargin\tmargin_2",
    }[name]
    labels = {
        "binary_cross_entropy": lambda: (round(random.uniform(), 2),),
        "cross_entropy": lambda: (random.integers(0, 3),),
        "margin_mse": lambda: tuple(random.normal(size=2).round(2)),
    }[name]
    rows = [(*(sentence() for _ in range(S + 1)), *labels()) for _ in range(11)]
    rows.append((*(sentence() for _ in range(S + 1)), *((2,) if name == "cross_entropy" else labels())))
    file = tmp_path / "data.tsv"
    file.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    model = tiny(family, C)
    model.save(tmp_path / "start")

    # A rate at which three steps change the loss clearly and do not diverge.
    rate = 0.02
    batches = Batches([open_examples(str(file))], 4, seed=0)
    definition, _ = define_cross_encoder(model.model_config)
    gradient = jax.value_and_grad(siamese_loss(packed_embed(definition), CROSS_ENCODER_LOSSES[name].function))
    step = jax.jit(partial(train_step, gradient=gradient, update=make_update(optax.sgd(rate)), dropout=False))
    state = initial_state({"model": jax.tree.map(jnp.copy, model.pretrained.params), "head": {}}, optax.sgd(rate), 0)
    our_losses = []
    for number in range(3):
        batch, _ = cross_encoder_batch(
            batches.batch_at(number), model.tokenizer, max_length=64, padding_id=model.padding_id
        )
        state, metrics = step(state, batch)
        our_losses.append(float(metrics.loss))

    other = peer(tmp_path / "start")
    other.eval()  # no dropout; gradients flow all the same
    loss = make(other)
    descent = torch.optim.SGD(other.parameters(), lr=rate)
    their_losses = []
    for number in range(3):
        batch = batches.batch_at(number)
        known = torch.tensor(batch.labels.astype(np.int64) if name == "cross_entropy" else batch.labels)
        descent.zero_grad()
        value = loss(batch.texts, known)
        value.backward()
        descent.step()
        their_losses.append(value.item())
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-5)

    other.save(str(tmp_path / "theirs"))
    after = {
        key: np.asarray(value) for key, value in flatten(CrossEncoder(tmp_path / "theirs").pretrained.params).items()
    }
    before = flatten(model.pretrained.params)
    for key, ours in flatten(state.params["model"]).items():
        change = float(np.abs(after[key] - np.asarray(before[key])).max())
        difference = float(np.abs(np.asarray(ours) - after[key]).max())
        # Key biases have no gradient but rounding: softmax does not see them.
        assert difference <= STEPS * change + 1e-7, f"{key}: {difference:.1e} of a change of {change:.1e}"
    moved = np.abs(after["head.output.kernel"] - np.asarray(before["head.output.kernel"])).max()
    assert moved > 1e-3 and abs(our_losses[0] - our_losses[1]) > 1e-4
