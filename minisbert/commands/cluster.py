"""`minisbert cluster`: group the sentences of a file by topic.

minisbert cluster banking77.tsv.gz --model all-MiniLM-L6-v2 --method kmeans --clusters 77 --label-column label
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands import flags
from minisbert.commands.mine import check_columns
from minisbert.commands.outputs import check_output, json_line, write_lines
from minisbert.commands.tables import printable
from minisbert.data.columns import read_classes, read_sentences
from minisbert.errors import DataError, InputError

# method, a function of mining/clustering.py -> its options -> their names there
OPTIONS = {
    "communities": {"threshold": "threshold", "min_size": "min_community_size"},
    "kmeans": {"clusters": "clusters", "seed": "seed"},
    "agglomerative": {"clusters": "clusters", "distance": "distance_threshold"},
    "hdbscan": {"min_size": "min_cluster_size"},
}


def cluster(
    file: Positional[flags.File],
    *,
    model: flags.Model,
    method: Literal["communities", "kmeans", "agglomerative", "hdbscan"] = "communities",
    clusters: flags.OptionalN = None,
    threshold: Annotated[float | None, arg(metavar="COSINE")] = None,
    min_size: flags.OptionalN = None,
    distance: Annotated[float | None, arg(metavar="DISTANCE")] = None,
    seed: flags.OptionalN = None,
    out: flags.OptionalFile = None,
    map: flags.OptionalFile = None,
    column: flags.Column = "text",
    label_column: flags.OptionalName = None,
    words: flags.N = 4,
    compute_dtype: flags.ComputeDtype = "float32",
    offline: flags.Offline = False,
) -> int:
    """Group the sentences of a file by topic.

    Prints for each cluster its number, its size, the words that set it apart, and its most typical sentence.

    Example: minisbert cluster sentences.txt --model all-MiniLM-L6-v2 --min-size 2 --map map.html

    Args:
        file: the sentences: .txt (one per line), .jsonl, .tsv, .csv (each also .gz), .parquet.
        method: communities finds the number of clusters itself; the other methods need scikit-learn.
        clusters: the number of clusters, for kmeans (8) and agglomerative.
        threshold: communities: the lowest cosine with the centre (0.75).
        min_size: communities and hdbscan: the fewest sentences of a cluster (10).
        distance: agglomerative, instead of --clusters: merge clusters nearer than this.
        seed: kmeans: seed of its random starts (0).
        out: write one object per line to this .jsonl file: line, cluster, text.
        map: draw the sentences in two dimensions: .png, or .html that shows each sentence on hover.
        label_column: a column of known classes, to score the clusters by V-measure.
        words: the number of words that describe a cluster.
    """
    given = {"clusters": clusters, "threshold": threshold, "min_size": min_size, "distance": distance, "seed": seed}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in OPTIONS[method]:
            takes = " and ".join("--" + option.replace("_", "-") for option in OPTIONS[method])
            raise InputError(f"--{name.replace('_', '-')} is not for {method}. Expected {takes} there.")
    if method != "communities":
        from minisbert.mining.clustering import sklearn_cluster

        sklearn_cluster()  # said now, and not after the sentences are embedded
    flags.at_least_one("--words", words)
    check_output(out, (".jsonl",), source=file)
    check_output(map, (".png", ".html"), source=file)
    if label_column is not None:
        check_columns(file)
    source = read_sentences(file, column)
    classes = read_classes(file, label_column) if label_column is not None else None
    rows = source.filled()
    if not rows:
        raise DataError(f"{file}: contains no text. Expected sentences.")
    texts = [source.texts[row] for row in rows]

    from minisbert import SentenceEncoder
    from minisbert.mining import clustering

    encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, token_budget="tuned", offline=offline)
    embeddings = encoder.encode(texts, show_progress_bar=sys.stderr.isatty())
    options: dict[str, Any] = {OPTIONS[method][name]: value for name, value in given.items()}
    if method == "communities":
        communities = clustering.community_detection(embeddings, **options)
        labels = clustering.community_labels(communities, len(embeddings))
    else:
        labels = getattr(clustering, method)(embeddings, **options)
    medoids = clustering.medoid_rows(embeddings, labels)
    names = [", ".join(some) or "-" for some in clustering.word_labels(texts, labels, words)]
    for number, (medoid, name) in enumerate(zip(medoids, names, strict=True)):
        print(f"{number:4}  {int((labels == number).sum()):6}  {printable(name)}  |  {printable(texts[medoid])}")
    print(f"{len(medoids)} clusters of {len(texts)} sentences; {int((labels < 0).sum())} in none")
    if not medoids:
        takes = " or ".join("--" + name.replace("_", "-") for name in OPTIONS[method])
        print(f"No group is large and close enough. Lower {takes}.")
    if classes is not None:
        score = clustering.v_measure([classes[row] for row in rows], labels)
        parts = f"homogeneity {score.homogeneity:.4f}, completeness {score.completeness:.4f}"
        print(f"V-measure {score.v_measure:.4f} ({parts})")
    if out is not None:
        found = zip(rows, labels.tolist(), texts, strict=True)
        first = source.file.first
        write_lines(out, (json_line({"line": first + row, "cluster": c, "text": text}) for row, c, text in found))
    if map is not None:
        from minisbert.commands.cluster_map import save_map

        save_map(
            map, clustering.pca_2d(embeddings), labels, texts, names, title=f"{Path(file).name}: {method} with {model}"
        )
        print(f"map  {map}")
    return 0
