"""Every loss and its gradient for the embeddings against sentence-transformers' losses in torch, on random embeddings.

sentence-transformers' losses take a model; here it is a stub that hands out the embeddings it is given.
"""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert.data.sampler import Batch
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.training.denoising import damaged_batch
from minisbert.training.losses import LOSSES, Targets, adaptive_layer, initial_softmax_head, matryoshka
from minisbert.training.ranking_losses import HARDNESS_MODES
from minisbert.training.siamese import gradient_with_model, loss_with_model, packed_embed, siamese_loss, unpack

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from sentence_transformers import util  # noqa: E402
from sentence_transformers.sentence_transformer import losses as theirs  # noqa: E402
from test_parity_modules import peer, slopes_under_their_names  # noqa: E402

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
WIDE_TEACHER = RNG.normal(size=(2, B, 5)).astype(np.float32)
GUIDE = RNG.normal(size=(4, B, 5)).astype(np.float32)
GUIDE[1] += GUIDE[0]
GROUP_B = np.array([0, 1, 0, 2, 1, 0, 2], np.int32)
HEADS = {
    name: jax.tree.map(np.asarray, initial_softmax_head(jax.random.key(0), D, CLASSES, name))
    for name in ("u,v", "|u-v|", "u*v", "|u-v|,u*v", "u,v,u*v", "u,v,|u-v|", "u,v,|u-v|,u*v")
}
PROJECTION = {
    "kernel": RNG.normal(size=(D, 5)).astype(np.float32),
    "bias": RNG.normal(size=5).astype(np.float32),
}
SCALE = {"log_scale": np.log(np.float32(20))}
BATCH_TRIPLETS = [name for name in LOSSES if name.startswith("batch_")]
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


class Stub(torch.nn.Module):
    """A model whose input is its output: the embedding of this name."""

    device, max_seq_length = torch.device("cpu"), 8
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)

    def __init__(self, name="embedding"):
        super().__init__()
        self.name = name

    def get_embedding_dimension(self):
        return D

    def forward(self, features):
        return {**features, "sentence_embedding": features[self.name]}


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


def their_projection(model, **options):
    loss = theirs.EmbedDistillLoss(model, projection_dim=5, **options)
    with torch.no_grad():
        loss.projection.weight.copy_(torch.tensor(PROJECTION["kernel"].T))
        loss.projection.bias.copy_(torch.tensor(PROJECTION["bias"]))
    return loss


def their_tension(model, in_batch=False):
    """Its two copies of the model are two embeddings here."""
    loss = (theirs.ContrastiveTensionLossInBatchNegatives if in_batch else theirs.ContrastiveTensionLoss)(model)
    if in_batch:  # both copies are given the first column
        loss.model2 = Stub("second")
    return loss


def case(name, S, make, labels=None, head=None, **options):
    """(name, S, labels, head, options, their loss); labels are class ids, scores, margins or teacher embeddings."""
    return pytest.param(name, S, labels, head, options, make, id="-".join([name, str(S), *map(str, options.values())]))


def gist(S, **options):
    return case("gist", S, partial(theirs.GISTEmbedLoss, guide=Stub("guide"), **options), **options)


def batch_triplet(name, distance, **options):
    metric = getattr(theirs.BatchHardTripletLossDistanceFunction, f"{distance}_distance")
    make = partial(getattr(theirs, name.title().replace("_", "") + "Loss"), distance_metric=metric, **options)
    return case(name, 1, make, GROUP_B, distance=distance, **options)


def regularizer(S, **options):
    return case(
        "global_orthogonal_regularization", S, partial(theirs.GlobalOrthogonalRegularizationLoss, **options), **options
    )


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
    case("angle", 2, theirs.AnglELoss, SCORE_B),
    case("angle", 2, partial(theirs.AnglELoss, scale=5.0), SCORE_B, scale=5.0),
    case("contrastive_tension", 2, their_tension, ALIKE_B),
    case("contrastive_tension_in_batch", 2, partial(their_tension, in_batch=True), None, SCALE),
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
    *(ranking(4, hardness_mode=mode, hardness_strength=9.0) for mode in HARDNESS_MODES[1:]),
    ranking(3, hardness_mode="all_negatives", hardness_strength=2.0, **SYMMETRIC),
    *(gist(S) for S in (2, 3)),
    gist(3, temperature=0.1, margin=0.2),
    gist(3, margin_strategy="relative", margin=0.3, contrast_anchors=False),
    gist(2, contrast_positives=False, margin=-0.01),
    case("mega_batch_margin", 2, partial(theirs.MegaBatchMarginLoss, use_mini_batched_version=False)),
    *(batch_triplet(name, "euclidean") for name in BATCH_TRIPLETS),
    *(batch_triplet(name, "cosine", margin=0.2) for name in BATCH_TRIPLETS if "soft" not in name),
    *(regularizer(S) for S in (1, 3)),
    regularizer(2, mean_weight=0.3, second_moment_weight=2.0, aggregation="sum"),
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
    case("embed_distill", 2, theirs.EmbedDistillLoss, TEACHER),
    *(
        case("embed_distill", 2, partial(theirs.EmbedDistillLoss, distance_metric=name), TEACHER[0], distance=name)
        for name in ("l2", "mse")
    ),
    case("embed_distill", 2, their_projection, WIDE_TEACHER, PROJECTION, projection_dim=5),
    case("distill_kl_div", 3, theirs.DistillKLDivLoss, MARGIN_BN[:, :2]),
    case("distill_kl_div", 4, partial(theirs.DistillKLDivLoss, temperature=3.0), MARGIN_BN, temperature=3.0),
    case(
        "distill_kl_div",
        4,
        partial(theirs.DistillKLDivLoss, student_temperature=2.0, teacher_temperature=0.5),
        MARGIN_BN,
        student_temperature=2.0,
        teacher_temperature=0.5,
    ),
]


def our_targets(name, S, labels):
    row = LOSSES[name]
    given = {"teacher_SBD": labels} if row.needs == "teacher" else {"labels_B": labels}
    return Targets(**given, guide_SBD=GUIDE[:S] if row.guide else None)


def their_value_and_gradient(make, texts, labels):
    embeddings = [torch.tensor(text, requires_grad=True) for text in texts]
    if labels is not None:  # torch's class ids are 64-bit; its teacher has S on axis 1
        labels = torch.tensor(np.swapaxes(labels, 0, 1) if labels.ndim == 3 else labels)
        labels = labels.long() if labels.dtype == torch.int32 else labels
    columns = [
        {"embedding": embedding, "guide": torch.tensor(guide), "second": embeddings[-1]}
        for embedding, guide in zip(embeddings, GUIDE, strict=False)
    ]
    value = make(Stub())(columns, labels)
    value = sum(value.values()) if isinstance(value, dict) else value
    value.backward()
    return value.item(), np.stack([embedding.grad.numpy() for embedding in embeddings])


def difference(ours, their):
    """Of the values, relative; of the gradients, relative to the largest entry."""
    value = abs(float(ours[0]) - their[0]) / max(abs(their[0]), 1e-30)
    return value, np.abs(ours[1] - their[1]).max() / np.abs(their[1]).max()


def plain_difference(name, S, labels, head, options, make):
    loss = partial(LOSSES[name].function, **options)
    ours = jax.value_and_grad(loss)(jnp.asarray(TEXTS[:S]), our_targets(name, S, labels), head)
    return difference(ours, their_value_and_gradient(make, TEXTS[:S], labels))


@pytest.mark.parametrize("name, S, labels, head, options, make", CASES)
def test_loss_and_gradient_are_the_peers(name, S, labels, head, options, make):
    assert max(plain_difference(name, S, labels, head, options, make)) <= RELATIVE


# Their Euclidean distance of a text to its copy is rounding, not 0: the choice between two copies is chance.
COSINES = [c for c in CASES if c.values[0] in BATCH_TRIPLETS and c.values[4]["distance"] == "cosine"]
CHOOSING = [*COSINES, *(c for c in CASES if c.values[0] == "mega_batch_margin")]


@pytest.mark.parametrize("name, S, labels, head, options, make", CHOOSING)
def test_of_equal_distances_the_first_has_the_slope_as_in_the_peer(name, S, labels, head, options, make):
    embeddings = TEXTS[:S].copy()
    embeddings[:, B // 2 :] = embeddings[:, : B - B // 2]  # every text twice, in classes of their own
    ours = jax.value_and_grad(partial(LOSSES[name].function, **options))(
        jnp.asarray(embeddings), our_targets(name, S, labels), head
    )
    assert max(difference(ours, their_value_and_gradient(make, embeddings, labels))) <= RELATIVE


# Their classifier and projection take one width only; their tension has two models; their regularizer gives a dict.
NOT_NESTED = "softmax", "contrastive_tension", "contrastive_tension_in_batch", "global_orthogonal_regularization"


NESTED = [c for c in CASES if c.values[0] not in NOT_NESTED and c.values[3] is not PROJECTION]


def matryoshka_difference(name, S, labels, head, options, make):
    dimensions, weights = [D, 3, 8], [1.0, 2.5, 0.3]
    loss = partial(matryoshka(LOSSES[name].function, dimensions, weights), **options)
    ours = jax.value_and_grad(loss)(jnp.asarray(TEXTS[:S]), our_targets(name, S, labels), head)

    def make_matryoshka(model):
        return theirs.MatryoshkaLoss(model, make(model), dimensions, weights)

    return difference(ours, their_value_and_gradient(make_matryoshka, TEXTS[:S], labels))


@pytest.mark.parametrize("name, S, labels, head, options, make", NESTED)
def test_matryoshka_is_the_peers(name, S, labels, head, options, make):
    assert max(matryoshka_difference(name, S, labels, head, options, make)) <= RELATIVE


def test_defaults_are_the_peers():
    """The cases above leave out what is default on both sides; here are the numbers themselves."""
    assert LOSSES["multiple_negatives_ranking"].options == {
        "scale": 20.0,
        "similarity": "cosine",
        "directions": ("query_to_doc",),
        "partition_mode": "joint",
        "hardness_mode": None,
        "hardness_strength": 0.0,
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


# --- the layers of a real encoder --------------------------------------------------------------------------------------


def layers_difference(dimensions, weighting="uniform", temperature=0.3):
    folder = Path(__file__).parents[2] / "weights/tiny-bert"
    texts = [["a cat", "the dog runs", "stones"], ["the house", "a dog", "rivers and trees"]]
    score_B = np.array([0.1, 0.9, 0.4], np.float32)
    other = peer(folder).eval()
    inner = theirs.CosineSimilarityLoss(other)
    settings = {"kl_temperature": temperature, "layer_weighting": weighting, "n_layers_per_step": -1}
    if dimensions:
        make = partial(theirs.Matryoshka2dLoss, matryoshka_dims=list(dimensions), n_dims_per_step=-1)
    else:
        make = theirs.AdaptiveLayerLoss
    value = make(other, inner, **settings)([other.preprocess(column) for column in texts], torch.tensor(score_B))
    value.backward()
    their_slopes = {(0, k): p.grad.numpy() for k, p in other[0].model.named_parameters() if p.grad is not None}

    pretrained = load_pretrained(folder)
    ids = pretrained.tokenizer.tokenize([*texts[0], *texts[1]], max_length=64).ids
    rows, where = pack(ids, padding_id=0)
    definition, _ = define(pretrained.model_config)
    loss = (
        matryoshka(LOSSES["cosine_similarity"].function, dimensions)
        if dimensions
        else LOSSES["cosine_similarity"].function
    )
    layered = adaptive_layer(loss, kl_temperature=temperature, layer_weighting=weighting)

    def of_params(params):
        layers_SBID = unpack(packed_embed(definition, "layers")(params, rows), where.reshape(2, 3))
        return layered(layers_SBID, Targets(labels_B=score_B))

    ours, gradient = jax.jit(jax.value_and_grad(of_params))(pretrained.params)
    slopes = slopes_under_their_names(pretrained, gradient)
    largest = max(np.abs(slope).max() for slope in their_slopes.values())
    assert slopes.keys() == their_slopes.keys()
    apart = max(np.abs(slope - their_slopes[key]).max() for key, slope in slopes.items())
    return abs(float(ours) / value.item() - 1), apart / largest


@pytest.mark.parametrize("dimensions", [(), (32, 8)], ids=["adaptive_layer", "matryoshka_2d"])
@pytest.mark.parametrize("weighting, temperature", [("uniform", 0.3), ("log", 1.0)])
def test_adaptive_layers_are_the_peers(dimensions, weighting, temperature):
    assert max(layers_difference(dimensions, weighting, temperature)) <= RELATIVE


# --- a decoder ---------------------------------------------------------------------------------------------------------


def decoder_difference(tie):
    """On the tiny BERT: of the values, and of the gradients in the encoder and in what the decoder has besides."""
    folder = Path(__file__).parents[2] / "weights/tiny-bert"
    damaged, whole = ["cat", "dog runs stones", "house"], ["a cat sees", "the dog runs over stones", "the house"]
    other = peer(folder).eval()
    torch.manual_seed(0)
    loss = theirs.DenoisingAutoEncoderLoss(other, None if tie else str(folder), tie_encoder_decoder=tie).eval()
    value = loss([other.preprocess(column) for column in (damaged, whole)], None)
    value.backward()
    theirs_of = dict(loss.decoder.named_parameters())

    def ours_of(part):
        """The decoder's own arrays, `part` of each tensor, under our names."""

        def tensor(name):
            array = part(theirs_of[name]).numpy()
            return array.T if array.ndim == 2 else array

        def linear(name):
            return {"kernel": tensor(f"{name}.weight"), "bias": tensor(f"{name}.bias")}

        def norm(name):
            return {"scale": tensor(f"{name}.weight"), "bias": tensor(f"{name}.bias")}

        cross = {}
        for i in range(2):
            layer = f"bert.encoder.layer.{i}.crossattention"
            cross[i] = {"value": linear(f"{layer}.self.value"), "output": linear(f"{layer}.output.dense")}
            cross[i]["norm"] = norm(f"{layer}.output.LayerNorm")
        transform = "cls.predictions.transform"
        made = {"transform": linear(f"{transform}.dense"), "norm": norm(f"{transform}.LayerNorm")}
        return {"cross": cross, **made, "bias": tensor("cls.predictions.bias")}

    pretrained = load_pretrained(folder)
    definition, _ = define(pretrained.model_config)
    batch, _ = damaged_batch(
        Batch(0, 0, np.arange(3), [damaged, whole], None), pretrained.tokenizer, max_length=64, padding_id=0
    )
    head = ours_of(torch.Tensor.detach)
    own = loss_with_model(partial(LOSSES["denoising_auto_encoder"].function, tie=tie), definition)
    gradient_of = gradient_with_model(jax.value_and_grad(siamese_loss(packed_embed(definition), own)))
    params = {"model": pretrained.params, "head": head if tie else head | {"encoder": pretrained.params["encoder"]}}
    ours, gradient = jax.jit(gradient_of)(params, batch, None)
    their_slopes = {(0, k): p.grad.numpy() for k, p in other[0].model.named_parameters() if p.grad is not None}
    slopes = slopes_under_their_names(pretrained, gradient["model"])
    their_head = jax.tree.leaves(ours_of(lambda tensor: tensor.grad))
    head_slopes = jax.tree.leaves({name: gradient["head"][name] for name in head})
    pairs = [*((slopes[key], slope) for key, slope in their_slopes.items()), *zip(head_slopes, their_head, strict=True)]
    largest = max(np.abs(slope).max() for _, slope in pairs)
    return abs(float(ours) / value.item() - 1), max(np.abs(a - b).max() for a, b in pairs) / largest


@pytest.mark.parametrize("tie", [True, False])
def test_the_decoder_is_the_peers(tie):
    assert max(decoder_difference(tie)) <= RELATIVE


# --- the table of docs/parity.md ---------------------------------------------------------------------------------------

CACHED = " with `chunk_size`"
# Their loss -> ours
PEERS = {
    "AdaptiveLayerLoss": "adaptive_layer",
    "AnglELoss": "angle",
    "BatchAllTripletLoss": "batch_all_triplet",
    "BatchHardSoftMarginTripletLoss": "batch_hard_soft_margin_triplet",
    "BatchHardTripletLoss": "batch_hard_triplet",
    "BatchSemiHardTripletLoss": "batch_semi_hard_triplet",
    "CachedGISTEmbedLoss": "gist" + CACHED,
    "CachedMultipleNegativesRankingLoss": "multiple_negatives_ranking" + CACHED,
    "CachedMultipleNegativesSymmetricRankingLoss": "multiple_negatives_ranking" + CACHED,
    "CoSENTLoss": "cosent",
    "ContrastiveLoss": "contrastive",
    "ContrastiveTensionLoss": "contrastive_tension",
    "ContrastiveTensionLossInBatchNegatives": "contrastive_tension_in_batch",
    "CosineSimilarityLoss": "cosine_similarity",
    "DenoisingAutoEncoderLoss": "denoising_auto_encoder",
    "DistillKLDivLoss": "distill_kl_div",
    "EmbedDistillLoss": "embed_distill",
    "GISTEmbedLoss": "gist",
    "GlobalOrthogonalRegularizationLoss": "global_orthogonal_regularization",
    "MSELoss": "mse",
    "MarginMSELoss": "margin_mse",
    "Matryoshka2dLoss": "adaptive_layer of matryoshka",
    "MatryoshkaLoss": "matryoshka",
    "MegaBatchMarginLoss": "mega_batch_margin",
    "MultipleNegativesRankingLoss": "multiple_negatives_ranking",
    "MultipleNegativesSymmetricRankingLoss": "multiple_negatives_ranking",
    "OnlineContrastiveLoss": "online_contrastive",
    "SoftmaxLoss": "softmax",
    "TripletLoss": "triplet",
}
ROW = re.compile(r"^\| (\w+) \| `?(.*?)`? \| (\S+) \| (\S+) \|$", re.MULTILINE)


def test_the_page_has_every_loss_with_what_was_measured():
    page = (Path(__file__).parents[2] / "docs/parity.md").read_text(encoding="utf-8")
    rows = {their: (ours, value, gradient) for their, ours, value, gradient in ROW.findall(page) if "Loss" in their}
    assert {their: ours.replace("`", "") for their, (ours, _, _) in rows.items()} == {
        their: ours.replace("`", "") for their, ours in PEERS.items()
    }
    assert all(float(number) <= RELATIVE for _, *numbers in rows.values() for number in numbers)
    of_theirs = {name for name in theirs.__all__ if name.endswith(("Loss", "InBatchNegatives"))}
    assert of_theirs == {*PEERS}
    assert set(PEERS.values()) >= set(LOSSES)


def main():
    """Print the rows."""
    found = {name: [plain_difference(*c.values) for c in CASES if c.values[0] == name] for name in LOSSES}
    found["matryoshka"] = [matryoshka_difference(*c.values) for c in NESTED]
    found["denoising_auto_encoder"] = [decoder_difference(True)]
    found["adaptive_layer"] = [layers_difference(())]
    found["adaptive_layer of matryoshka"] = [layers_difference((32, 8))]
    for their, ours in sorted(PEERS.items(), key=lambda row: row[0].lower()):
        value, gradient = np.max(found[ours.removesuffix(CACHED)], axis=0)
        named = f"`{ours.removesuffix(CACHED)}`" + (CACHED if ours.endswith(CACHED) else "")
        print(f"| {their} | {named} | {value:.1e} | {gradient:.1e} |")


if __name__ == "__main__":
    main()
