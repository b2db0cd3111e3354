"""Encode a corpus into shards (shards.py) on a Ray cluster, for machines that do not form a mesh; same result, bit for bit.

    encode_on_ray(partial(stream_sentences, "corpus.txt"), partial(SentenceEncoder.load, "all-MiniLM-L6-v2"), folder, workers=4)

Each worker is an actor that loads the model, reads the corpus and embeds every n-th shard. Ray Data starts the actors on the
machines of the cluster, and restarts any that die. All of them must see the corpus and the folder.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minisbert.arguments import check_positive
from minisbert.corpus.shards import encode_shards
from minisbert.errors import needs


def encode_on_ray(
    texts: Callable[[], Iterable[str]], load: Callable[[], Any], folder: str | Path, *, workers: int, **options: Any
) -> int:
    """Run `encode_shards` on the workers of a Ray cluster; without a cluster, in processes on this machine.

    Args:
        texts: returns the corpus; called in each worker.
        load: returns the encoder; called in each worker.
        options: for `encode_shards`.

    Returns:
        the number of rows of the whole corpus.

    Raises:
        InputError: Ray is not installed.
    """
    check_positive("workers", workers)
    with needs("encode_on_ray (--ray) needs Ray", "ray", "omit --ray"):
        import ray.data

    class Worker:
        def __init__(self) -> None:
            self.encoder = load()

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            place = {"worker": int(row["id"]), "workers": workers}
            return {"rows": encode_shards(texts(), self.encoder, folder, **place, **options)}

    numbers = ray.data.range(workers, override_num_blocks=workers)
    done = numbers.map(Worker, concurrency=workers)  # type: ignore[arg-type]  # it takes a class too
    return int(done.take_all()[0]["rows"])
