"""Retrieval, triplets and labelled pairs against sentence-transformers' evaluators, to 1e-6.

Needs the `parity` extra; skipped with a message where it is not installed. The tiny model is read by both libraries,
each with its own embeddings. Cranfield with all-MiniLM-L6-v2: the recorded figures of sentence-transformers, and its
evaluator over our embeddings.
"""

from pathlib import Path

import numpy as np
import pytest

from minisbert import DownloadError, SentenceEncoder
from minisbert.download.locate import locate
from minisbert.evaluation.binary_classification import LabelledPairs, evaluate_binary
from minisbert.evaluation.retrieval import (
    RetrievalData,
    evaluate_rankings,
    evaluate_retrieval,
    index_of,
    read_retrieval,
)
from minisbert.evaluation.sts import STSPairs, evaluate_sts
from minisbert.evaluation.triplets import Triplets, evaluate_triplets

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=WHY)
peers = pytest.importorskip("sentence_transformers", reason=WHY)
evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation", reason=WHY)

pytestmark = pytest.mark.parity

TOLERANCE = 1e-6
WEIGHTS = Path(__file__).parents[2] / "weights"
CRANFIELD = Path(__file__).parents[2].parent / "shared" / "data" / "retrieval" / "cranfield"
# sentence-transformers 6.2.0, torch 2.13.0 (CPU, float32), all-MiniLM-L6-v2: InformationRetrievalEvaluator with its defaults
# over read_retrieval(CRANFIELD) with all documents and with every fourth, its own embeddings.
PEER_CRANFIELD = {
    "accuracy@1": (0.3466666666666667, 0.38202247191011235),
    "accuracy@3": (0.6977777777777778, 0.6123595505617978),
    "accuracy@5": (0.7777777777777778, 0.7078651685393258),
    "accuracy@10": (0.8622222222222222, 0.7808988764044944),
    "precision@1": (0.3466666666666667, 0.38202247191011235),
    "precision@3": (0.36, 0.2640449438202247),
    "precision@5": (0.3191111111111112, 0.20337078651685395),
    "precision@10": (0.244, 0.1286516853932584),
    "recall@1": (0.07693546141585358, 0.23848314606741575),
    "recall@3": (0.2073263684295676, 0.44165815457950297),
    "recall@5": (0.2923940410390358, 0.5394283151305623),
    "recall@10": (0.4136458403328888, 0.6413373143710223),
    "ndcg@10": (0.3953210787999995, 0.5014635093505591),
    "mrr@10": (0.5346049382716048, 0.5148140716960943),
    "map@100": (0.31659301279641655, 0.43568510968692725),
}
WORDS = "man woman dog city night guitar sea book street play read sing walk run the a at by".split()
SIMILARITIES = ["cosine", "dot", "euclidean", "manhattan"]


def sentences(count: int, seed: int) -> list[str]:
    """All different: of equal texts the scores are equal but for rounding, which is each library's own."""
    rng = np.random.default_rng(seed)
    made = dict.fromkeys(" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2 * count))
    return list(made)[:count]


@pytest.fixture(scope="module", params=["tiny-bert", "tiny-mpnet"])
def models(request):
    folder = str(WEIGHTS / request.param)
    return SentenceEncoder.load(folder), peers.SentenceTransformer(folder, device="cpu")


def close(ours: float, theirs: float, what: str) -> None:
    assert ours == pytest.approx(float(theirs), abs=TOLERANCE), what


def relevant(data: RetrievalData) -> dict[str, set[str]]:
    return {q: {d for d, gain in docs.items() if gain > 0} for q, docs in data.relevant.items()}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_retrieval(models, similarity):
    encoder, peer = models
    rng = np.random.default_rng(0)
    corpus = {f"d{i}": text for i, text in enumerate(sentences(190, 1))}
    queries = {f"q{i}": text for i, text in enumerate(sentences(40, 2))}
    qrels = {q: {f"d{i}": int(rng.integers(0, 3)) for i in rng.choice(190, 12, replace=False)} for q in queries}
    data = RetrievalData("made", corpus, queries, qrels)
    ours = evaluate_retrieval(encoder, data, similarity=similarity).scores
    peer.similarity_fn_name = similarity
    evaluator = evaluation.InformationRetrievalEvaluator(queries, corpus, relevant(data), write_csv=False)
    theirs = {name.removeprefix(f"{similarity}_"): value for name, value in evaluator(peer).items()}
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        close(value, theirs[name], name)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_packed_sts(models, precision):
    """Cosines of bits have many ties, which rounding breaks in each library's own way (6e-4 is measured); the others are exact.

    int8 is left out: sentence-transformers takes the ranges of each column of texts, `evaluate_sts` those of both.
    """
    encoder, peer = models
    first, second = sentences(150, 4), sentences(150, 5)
    gold = np.random.default_rng(6).integers(0, 6, 150).tolist()
    evaluator = evaluation.EmbeddingSimilarityEvaluator(
        first, second, gold, precision=precision, similarity_fn_names=SIMILARITIES, write_csv=False
    )
    theirs = evaluator(peer)
    ours = evaluate_sts(
        encoder,
        STSPairs("made", *map(tuple, (first, second, gold))),
        precision=precision,
        normalize_embeddings=True,
        resamples=0,
    )
    for name in SIMILARITIES:
        found = ours.score(similarity=name).spearman.value
        assert found == pytest.approx(theirs[f"spearman_{name}"], abs=2e-3 if name == "cosine" else TOLERANCE), name


def test_triplets(models):
    encoder, peer = models
    columns = [sentences(200, seed) for seed in range(3)]
    evaluator = evaluation.TripletEvaluator(*columns, similarity_fn_names=SIMILARITIES, write_csv=False)
    theirs = evaluator(peer)
    for name, value in evaluate_triplets(encoder, Triplets("made", *map(tuple, columns))).items():
        close(value, theirs[f"{name}_accuracy"], name)


def test_labelled_pairs(models):
    encoder, peer = models
    first, second = sentences(300, 1), sentences(300, 2)
    labels = np.random.default_rng(3).integers(0, 2, 300).tolist()
    second = [
        f"{a} {b}" if label and i % 3 else b for i, (a, b, label) in enumerate(zip(first, second, labels, strict=True))
    ]
    evaluator = evaluation.BinaryClassificationEvaluator(
        first, second, labels, similarity_fn_names=SIMILARITIES, write_csv=False
    )
    theirs = evaluator(peer)
    names = {"average_precision": "ap", "matthews": "mcc"}
    for similarity, scores in evaluate_binary(
        encoder, LabelledPairs("made", *map(tuple, (first, second, labels)))
    ).items():
        sign = -1 if similarity in ("euclidean", "manhattan") else 1
        for name, value in scores._asdict().items():
            what = f"{similarity}_{names.get(name, name)}"
            if name.endswith("threshold"):  # a similarity itself; those of untrained models reach the hundreds
                assert sign * value == pytest.approx(float(theirs[what]), rel=1e-5, abs=2e-5), what
            else:
                close(value, theirs[what], what)


@pytest.mark.real
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.nightly), 4])
def test_cranfield(every):
    if not CRANFIELD.is_dir():
        pytest.skip(f"{CRANFIELD} is not there")
    try:
        locate("all-MiniLM-L6-v2", offline=True)
    except DownloadError as error:
        pytest.skip(f"all-MiniLM-L6-v2 is not on this machine: {error}")
    encoder = SentenceEncoder.load("all-MiniLM-L6-v2", offline=True)
    data = read_retrieval(CRANFIELD)
    corpus = dict(list(data.corpus.items())[::every])
    judgements = {q: {d: gain for d, gain in docs.items() if d in corpus} for q, docs in data.relevant.items()}
    data = RetrievalData(data.name, corpus, data.queries, judgements)
    index = index_of(encoder, data, on_truncate="ignore")
    queries = data.judged()
    query_embeddings = encoder.encode_query([data.queries[q] for q in queries])
    hits = index.search(query_embeddings, 100)
    rankings = {q: [hit.id for hit in some] for q, some in zip(queries, hits, strict=True)}
    ours = evaluate_rankings(data, rankings).scores
    assert ours.keys() == PEER_CRANFIELD.keys()
    for name, value in ours.items():
        close(value, PEER_CRANFIELD[name][every > 1], name)

    class Ours:
        def encode_query(self, texts, **options):
            return torch.from_numpy(query_embeddings)

    texts, ids = data.texts_and_ids()
    evaluator = evaluation.InformationRetrievalEvaluator(
        {q: data.queries[q] for q in queries},
        dict(zip(ids, texts, strict=True)),
        relevant(data),
        score_functions={"cosine": peers.util.cos_sim},
    )
    document_embeddings = torch.from_numpy(index._floats[0][:])
    theirs = evaluator.compute_all_metrics(Ours(), corpus_embeddings=document_embeddings)["cosine"]
    for name, value in ours.items():
        metric, _, k = name.partition("@")
        close(value, theirs[f"{metric}@k"][int(k)], name)
