"""`minisbert cluster`: the sentences of a file, grouped by what they are about.

minisbert cluster sentences.txt --model all-MiniLM-L6-v2 --threshold 0.7
minisbert cluster questions.tsv --column question --model all-MiniLM-L6-v2 --method kmeans --clusters 20 --map map.html
minisbert cluster banking77.tsv.gz --model all-MiniLM-L6-v2 --method kmeans --clusters 77 --label-column label
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from minisbert.commands.mine import check_columns, printable
from minisbert.commands.outputs import check_output, whole_file
from minisbert.data.columns import Sentences, read_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy as np

# Each method and the options that it reads.
OPTIONS = {
    "communities": ("threshold", "min_size"),
    "kmeans": ("clusters", "seed"),
    "agglomerative": ("clusters", "distance"),
    "hdbscan": ("min_size",),
}


def cluster(
    file: Annotated[Positional[str], arg(metavar="FILE")],
    *,
    model: Annotated[str, arg(metavar="MODEL")],
    method: Literal["communities", "kmeans", "agglomerative", "hdbscan"] = "communities",
    clusters: Annotated[int | None, arg(metavar="N")] = None,
    threshold: Annotated[float | None, arg(metavar="COSINE")] = None,
    min_size: Annotated[int | None, arg(metavar="N")] = None,
    distance: Annotated[float | None, arg(metavar="DISTANCE")] = None,
    seed: Annotated[int | None, arg(metavar="N")] = None,
    out: Annotated[str | None, arg(metavar="FILE")] = None,
    map: Annotated[str | None, arg(metavar="FILE")] = None,
    column: Annotated[str, arg(metavar="NAME")] = "text",
    label_column: Annotated[str | None, arg(metavar="NAME")] = None,
    words: Annotated[int, arg(metavar="N")] = 4,
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
    offline: bool = False,
) -> int:
    """Group the sentences of a file by what they are about.

    Prints for each cluster its number, its size, the words that set it apart, and its most typical sentence.

    Example: minisbert cluster sentences.txt --model all-MiniLM-L6-v2 --min-size 2 --map map.html

    Args:
        file: the sentences: .txt (one a line), .jsonl, .tsv (each also .gz), .parquet.
        model: a folder, a known name, or a name on the hub.
        method: communities find themselves; the others need scikit-learn.
        clusters: how many, for kmeans (8) and agglomerative.
        threshold: communities: the least cosine with the centre (0.75).
        min_size: communities and hdbscan: the least sentences of a cluster (10).
        distance: agglomerative, instead of --clusters: merge what is nearer.
        seed: kmeans: of its random starts (0).
        out: write an object a line here: line, cluster, text (.jsonl).
        map: draw the sentences in two dimensions, .png, or .html that shows them under the mouse.
        column: which key or column of jsonl, tsv or parquet holds the sentence.
        label_column: a column of known classes, to score the clusters by V-measure.
        words: how many words name a cluster.
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        offline: never open a socket.
    """
    given = {"clusters": clusters, "threshold": threshold, "min_size": min_size, "distance": distance, "seed": seed}
    for name, value in given.items():
        if value is not None and name not in OPTIONS[method]:
            takes = " and ".join("--" + option.replace("_", "-") for option in OPTIONS[method])
            raise InputError(f"--{name.replace('_', '-')} is not for {method}. Expected {takes} there.")
    if words < 1:
        raise InputError(f"--words is {words}. Expected at least 1.")
    if out is not None:
        check_output(out, (".jsonl",), source=file)
    if map is not None:
        check_output(map, (".png", ".html"), source=file)
    if label_column is not None:
        check_columns(file)
    source = read_sentences(file, column)
    classes = read_sentences(file, label_column).texts if label_column is not None else None
    rows = [row for row, text in enumerate(source.texts) if text.strip()]
    if not rows:
        raise DataError(f"{file}: no text in it. Expected sentences.")
    texts = [source.texts[row] for row in rows]

    from minisbert import SentenceEncoder
    from minisbert.mining.clustering import medoid_rows, plane, v_measure, word_labels

    encoder = SentenceEncoder.load(model, compute_dtype=compute_dtype, offline=offline)
    embeddings = encoder.encode(texts, show_progress_bar=sys.stderr.isatty())
    labels = _clustered(embeddings, method, {name: value for name, value in given.items() if value is not None})
    medoids, named = medoid_rows(embeddings, labels), word_labels(texts, labels, words)
    names = [", ".join(some) or "-" for some in named]
    for number, (medoid, name) in enumerate(zip(medoids, names, strict=True)):
        print(f"{number:4}  {int((labels == number).sum()):6}  {printable(name)}  |  {printable(texts[medoid])}")
    print(f"{len(medoids)} clusters of {len(texts)} sentences; {int((labels < 0).sum())} in none")
    if classes is not None:
        score = v_measure([classes[row] for row in rows], labels)
        print(
            f"V-measure {score.v_measure:.4f} (homogeneity {score.homogeneity:.4f}, completeness {score.completeness:.4f})"
        )
    if out is not None:
        _write(out, source, rows, labels)
    if map is not None:
        from minisbert.commands.cluster_map import save_map

        save_map(map, plane(embeddings), labels, texts, names, title=f"{Path(file).name}: {method} with {model}")
        print(f"map  {map}")
    return 0


def _clustered(embeddings: "np.ndarray", method: str, options: dict) -> "np.ndarray":
    from minisbert.mining import clustering

    if method == "communities":
        size = {"min_community_size": options.pop("min_size")} if "min_size" in options else {}
        found = clustering.community_detection(embeddings, **options, **size)
        return clustering.community_labels(found, len(embeddings))
    if method == "kmeans":
        return clustering.kmeans(embeddings, **options)
    if method == "hdbscan":
        return clustering.hdbscan(embeddings, options.get("min_size", 10))
    return clustering.agglomerative(embeddings, options.get("clusters"), distance_threshold=options.get("distance"))


def _write(out: str, source: Sentences, rows: list[int], labels: "np.ndarray") -> None:
    from json import dumps

    with whole_file(Path(out)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row, label in zip(rows, labels.tolist(), strict=True):
            record = {"line": source.first + row, "cluster": label, "text": source.texts[row]}
            file.write(dumps(record, ensure_ascii=False) + "\n")
