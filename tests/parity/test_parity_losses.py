"""Every loss and its gradient for the embeddings against sentence-transformers' losses in torch, on random embeddings.

sentence-transformers' losses take a model; here it is a stub that hands out the embeddings it is given.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert.training.losses import LOSSES, Targets, initial_softmax_head, matryoshka

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
from sentence_transformers import util  # noqa: E402
from sentence_transformers.sentence_transformer import losses as theirs  # noqa: E402

pytestmark = pytest.mark.parity

# Two float32 implementations that add in another order, relative to the largest entry; 1e-6 is measured.
RELATIVE = 1e-5

B, D, CLASSES = 7, 12, 3
RNG = np.random.default_rng(0)
TEXTS = RNG.normal(size=(4, B, D)).astype(np.float32)
TEXTS[1] += TEXTS[0]  # positives look like their anchors
CLASS_B = RNG.integers(0, CLASSES, B).astype(np.int32)
SCORE_B = RNG.uniform(size=B).astype(np.float32)
SCORE_B[2] = SCORE_B[5]
ALIKE_B = np.array([1, 0, 1, 0, 0, 1, 1], np.int32)
MARGIN_BN = RNG.normal(size=(B, 3)).astype(np.float32)
TEACHER = RNG.normal(size=(2, B, D)).astype(np.float32)
HEADS = {
    name: jax.tree.map(np.asarray, initial_softmax_head(jax.random.key(0), D, CLASSES, name))
    for name in ("u,v", "|u-v|", "u*v", "|u-v|,u*v", "u,v,u*v", "u,v,|u-v|", "u,v,|u-v|,u*v")
}
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


class Stub(torch.nn.Module):
    """A model whose input is its output."""

    device = torch.device("cpu")

    def get_embedding_dimension(self):
        return D

    def forward(self, features):
        return {"sentence_embedding": features["embedding"]}


def their_softmax(model, concatenation):
    loss = theirs.SoftmaxLoss(
        model,
        D,
        CLASSES,
        concatenation_sent_rep="u,v" in concatenation,
        concatenation_sent_difference="|u-v|" in concatenation,
        concatenation_sent_multiplication="u*v" in concatenation,
    )
    head = HEADS[concatenation]
    with torch.no_grad():
        loss.classifier.weight.copy_(torch.tensor(head["kernel"].T))
        loss.classifier.bias.copy_(torch.tensor(head["bias"]))
    return loss


def case(name, S, make, labels=None, head=None, **options):
    """(name, S, labels, head, options, their loss); labels are class ids, scores, margins or teacher embeddings."""
    return pytest.param(name, S, labels, head, options, make, id="-".join([name, str(S), *map(str, options.values())]))


def ranking(S, **options):
    their_options = {**options}
    if "similarity" in options:
        their_options["similarity_fct"] = {"dot": util.dot_score, "cosine": util.cos_sim}[
            their_options.pop("similarity")
        ]
    make = partial(theirs.MultipleNegativesRankingLoss, **their_options)
    return case("multiple_negatives_ranking", S, make, **options)


def triplet(name, **options):
    metric = getattr(theirs.TripletDistanceMetric, name.upper())
    their_options = {"triplet_margin": options["margin"]} if options else {}
    make = partial(theirs.TripletLoss, distance_metric=metric, **their_options)
    return case("triplet", 3, make, distance=name, **options)


CASES = [
    *(
        case("softmax", 2, partial(their_softmax, concatenation=name), CLASS_B, head, concatenation=name)
        for name, head in HEADS.items()
    ),
    case("cosine_similarity", 2, theirs.CosineSimilarityLoss, SCORE_B),
    case("cosent", 2, theirs.CoSENTLoss, SCORE_B),
    case("cosent", 2, partial(theirs.CoSENTLoss, scale=5.0), SCORE_B, scale=5.0),
    case("contrastive", 2, theirs.ContrastiveLoss, ALIKE_B),
    case("contrastive", 2, partial(theirs.ContrastiveLoss, margin=1.4), ALIKE_B, margin=1.4),
    case("online_contrastive", 2, theirs.OnlineContrastiveLoss, ALIKE_B),
    case("online_contrastive", 2, partial(theirs.OnlineContrastiveLoss, margin=1.4), ALIKE_B, margin=1.4),
    case("online_contrastive", 2, partial(theirs.OnlineContrastiveLoss, margin=2.0), 0 * ALIKE_B, margin=2.0),
    case("online_contrastive", 2, theirs.OnlineContrastiveLoss, 0 * ALIKE_B + 1),
    *(ranking(S) for S in (2, 3, 4)),
    ranking(3, scale=0.5, similarity="dot"),
    *(ranking(S, **SYMMETRIC) for S in (2, 4)),
    *(ranking(S, directions=ALL_DIRECTIONS) for S in (2, 4)),
    ranking(3, directions=("query_to_doc", "doc_to_doc"), scale=7.0),
    triplet("euclidean"),
    triplet("manhattan", margin=2.0),
    triplet("cosine", margin=0.5),
    case("margin_mse", 3, theirs.MarginMSELoss, MARGIN_BN[:, 0]),
    case("margin_mse", 4, theirs.MarginMSELoss, MARGIN_BN[:, :2]),
    case("margin_mse", 4, theirs.MarginMSELoss, MARGIN_BN),
    case(
        "margin_mse",
        3,
        partial(theirs.MarginMSELoss, similarity_fct=util.pairwise_cos_sim),
        MARGIN_BN[:, :1],
        similarity="cosine",
    ),
    case("mse", 2, theirs.MSELoss, TEACHER),
    case("mse", 2, theirs.MSELoss, TEACHER[0]),
]


def our_targets(name, labels):
    return Targets(teacher_SBD=labels) if LOSSES[name].needs == "teacher" else Targets(labels_B=labels)


def their_value_and_gradient(make, texts, labels):
    embeddings = [torch.tensor(text, requires_grad=True) for text in texts]
    if labels is not None:  # torch's class ids are 64-bit; its teacher has S on axis 1
        labels = torch.tensor(np.swapaxes(labels, 0, 1) if labels.ndim == 3 else labels)
        labels = labels.long() if labels.dtype == torch.int32 else labels
    value = make(Stub())([{"embedding": embedding} for embedding in embeddings], labels)
    value.backward()
    return value.item(), np.stack([embedding.grad.numpy() for embedding in embeddings])


def assert_equal(ours, their):
    assert float(ours[0]) == pytest.approx(their[0], rel=RELATIVE, abs=1e-30)
    assert np.abs(ours[1] - their[1]).max() <= RELATIVE * np.abs(their[1]).max()


@pytest.mark.parametrize("name, S, labels, head, options, make", CASES)
def test_loss_and_gradient_are_the_peers(name, S, labels, head, options, make):
    loss = partial(LOSSES[name].function, **options)
    ours = jax.value_and_grad(loss)(jnp.asarray(TEXTS[:S]), our_targets(name, labels), head)
    assert_equal(ours, their_value_and_gradient(make, TEXTS[:S], labels))


@pytest.mark.parametrize("name, S, labels, head, options, make", [c for c in CASES if c.values[0] != "softmax"])
def test_matryoshka_is_the_peers(name, S, labels, head, options, make):
    """Not for softmax: sentence-transformers' classifier takes one width only."""
    dimensions, weights = [D, 3, 8], [1.0, 2.5, 0.3]
    loss = partial(matryoshka(LOSSES[name].function, dimensions, weights), **options)
    ours = jax.value_and_grad(loss)(jnp.asarray(TEXTS[:S]), our_targets(name, labels), head)

    def make_matryoshka(model):
        return theirs.MatryoshkaLoss(model, make(model), dimensions, weights)

    assert_equal(ours, their_value_and_gradient(make_matryoshka, TEXTS[:S], labels))


def test_defaults_are_the_peers():
    """The cases above leave out what is default on both sides; here are the numbers themselves."""
    assert LOSSES["multiple_negatives_ranking"].options == {
        "scale": 20.0,
        "similarity": "cosine",
        "directions": ("query_to_doc",),
        "partition_mode": "joint",
    }
    assert LOSSES["triplet"].options == {"distance": "euclidean", "margin": 5.0}
    assert LOSSES["contrastive"].options == LOSSES["online_contrastive"].options == {"margin": 0.5}
    assert LOSSES["cosent"].options == {"scale": 20.0}
    assert LOSSES["margin_mse"].options == {"similarity": "dot"}


def test_a_new_head_is_distributed_as_torchs_linear():
    linear = torch.nn.Linear(300, 50)
    ours = initial_softmax_head(jax.random.key(0), 100, 50)
    weight = linear.weight.detach().numpy().T
    assert ours["kernel"].shape == weight.shape
    # 15,000 draws on each side: quantiles of both agree to a few percent of the limit, 1 / sqrt(300).
    quantiles = np.linspace(0, 1, 11)
    apart = np.quantile(ours["kernel"], quantiles) - np.quantile(weight, quantiles)
    assert np.abs(apart).max() < 0.05 / np.sqrt(300)
    assert abs(linear.bias.detach().numpy()).max() <= 1 / np.sqrt(300) >= np.abs(ours["bias"]).max()
