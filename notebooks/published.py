"""Figures that the papers and the article print: the one table from which notebooks, docs and comments quote them.

    PUBLISHED["SBERT", "table 6"]["MEAN"]["STSb"]            87.44

A source and a place in it, then a row and a column, as printed. `tests/notebooks/test_published.py` compares every
quotation with this table. The cosines and the seconds are in the package, which shows them next to its own.

SBERT is Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084. Its tables 1, 2 and 6 are Spearman's rank correlation
x 100 between cosines and human scores: table 1 on seven test sets and their average, table 2 on STS-B's test set, table 6
on STS-B's development set. The article is https://www.pinecone.io/learn/series/nlp/sentence-embeddings/.
Its table of models is that of sentence-transformers, https://www.sbert.net/docs/sentence_transformer/pretrained_models.html:
performance is the average of one over 14 sets of sentences and one over 6 of search, speed is sentences per second on a V100.
"""

from minisbert.commands.demo import PUBLISHED as COSINES
from minisbert.mining.pairwise_cost import PUBLISHED as SECONDS


def _table(columns: str, rows: str) -> dict[str, dict[str, float]]:
    """Rows of `name: number number ...`, one number per column."""
    found = {}
    for line in rows.strip().splitlines():
        name, _, numbers = line.strip().partition(": ")
        found[name] = dict(zip(columns.split(), map(float, numbers.split()), strict=True))
    return found


PUBLISHED: dict[tuple[str, str], dict[str, dict[str, float]]] = {
    ("SBERT", "section 1"): {
        "pairs of 10,000 sentences": {"inferences": 49_995_000},
        **{step: {"seconds on a V100": seconds} for step, seconds in SECONDS.items()},
    },
    ("SBERT", "section 3.1"): _table("pairs", "SNLI: 570000\nMultiNLI: 430000"),
    ("SBERT", "table 1"): _table(
        "STS12 STS13 STS14 STS15 STS16 STSb SICK-R Avg.",
        """
        Avg. GloVe embeddings: 55.14 70.66 59.73 68.25 63.66 58.02 53.76 61.32
        Avg. BERT embeddings: 38.78 57.98 57.98 63.15 61.06 46.35 58.40 54.81
        BERT CLS-vector: 20.16 30.01 20.09 36.88 38.08 16.50 42.63 29.19
        InferSent - GloVe: 52.86 66.75 62.15 72.77 66.87 68.03 65.65 65.01
        Universal Sentence Encoder: 64.49 67.80 64.61 76.83 73.18 74.92 76.69 71.22
        SBERT-NLI-base: 70.97 76.53 73.19 79.09 74.30 77.03 72.91 74.89
        SBERT-NLI-large: 72.27 78.46 74.90 80.99 76.25 79.23 73.75 76.55
        """,
    ),
    ("SBERT", "table 2"): _table(
        "Spearman deviation",
        """
        BERT-STSb-base: 84.30 0.76
        SBERT-STSb-base: 84.67 0.19
        BERT-NLI-STSb-base: 88.33 0.19
        SBERT-NLI-STSb-base: 85.35 0.17
        """,
    ),
    ("SBERT", "table 6"): {
        **_table("NLI STSb", "MEAN: 80.78 87.44\nMAX: 79.07 69.92\nCLS: 79.80 86.62"),
        **_table(
            "NLI",
            """
            u,v: 66.04
            |u-v|: 69.78
            u*v: 70.54
            |u-v|,u*v: 78.37
            u,v,u*v: 77.44
            u,v,|u-v|: 80.78
            u,v,|u-v|,u*v: 80.44
            """,
        ),
    },
    ("article", "table of models"): _table("performance speed MB", "all-mpnet-base-v2: 63.30 2800 418"),
    ("sentence-transformers", "table of models"): _table(
        "sentences search performance speed MB",
        """
        average_word_embeddings_glove.6B.300d: 49.79 22.71 36.25 34000 420
        all-MiniLM-L6-v2: 68.06 49.54 58.80 14200 80
        all-mpnet-base-v2: 69.57 57.02 63.30 2800 420
        """,
    ),
    **{
        ("article", f"cosines of {model}"): {f"{i}, {j}": {"cosine": value} for (i, j), value in table.items()}
        for model, table in COSINES.items()
    },
}
