"""`minisbert encode`: a file of sentences in, a file of embeddings out.

minisbert encode sentences.txt --model all-mpnet-base-v2 --out embeddings.npy
cat sentences.txt | minisbert encode - --model weights/tiny-bert > embeddings.jsonl
minisbert encode corpus.txt.gz --model all-MiniLM-L6-v2 --out vectors/          # a folder of shards, however long the file
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands.outputs import STANDARD, WRITERS, check_output, write_embeddings
from minisbert.data.columns import Sentences, read_sentences, stream_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy as np

    from minisbert.sentence_encoder import SentenceEncoder

# Sentences embedded before they are written: enough to fill batches, few enough to keep memory flat.
PART = 65_536


def encode(
    source: Annotated[Positional[str], arg(metavar="INPUT")],
    *,
    model: Annotated[str, arg(metavar="MODEL")],
    out: Annotated[str, arg(metavar="FILE")] = STANDARD,
    column: Annotated[str, arg(metavar="NAME")] = "text",
    prompt: Annotated[str | None, arg(metavar="TEXT")] = None,
    prompt_name: Annotated[str | None, arg(metavar="NAME")] = None,
    batch_size: Annotated[int | None, arg(metavar="N")] = None,
    normalize: bool = False,
    truncate_dim: Annotated[int | None, arg(metavar="N")] = None,
    precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] = "float32",
    compute_dtype: Literal["float32", "bfloat16"] = "float32",
    packing: bool = False,
    on_truncate: Literal["warn", "error", "ignore"] = "warn",
    rows_per_shard: Annotated[int, arg(metavar="N")] = 65_536,
    worker: Annotated[int, arg(metavar="N")] = 0,
    workers: Annotated[int, arg(metavar="N")] = 1,
    ray: Annotated[int | None, arg(metavar="N")] = None,
    offline: bool = False,
) -> int:
    """Embed the sentences of a file.

    Example: echo "a man eats" | minisbert encode - --model all-mpnet-base-v2 --out embeddings.npy

    Args:
        source: .txt (a sentence a line), .jsonl, .tsv (each also .gz), .parquet, or - for text on stdin.
        model: a folder, a known name, or a name on the hub.
        out: .npy, .jsonl, .parquet, or - for jsonl on stdout; a name that ends in / is a folder of .npy shards, for files
            larger than memory: killed and started again, the same command makes what is missing.
        column: which key or column of jsonl, tsv or parquet holds the sentence.
        prompt: a text to put before each sentence.
        prompt_name: the name of such a text in the model's settings.
        batch_size: sentences computed at once; by default as many as fit 1024 tokens.
        normalize: scale each embedding to length 1.
        truncate_dim: keep the first dimensions only (Matryoshka models).
        precision: numbers of the output; int8 and uint8 divide the range that each dimension has in this file.
        compute_dtype: bfloat16 is faster where the hardware has it, and less exact.
        packing: several sentences share a row, which is faster where most are short; embeddings differ in the last bits.
        on_truncate: what to do about sentences that are longer than the model takes.
        rows_per_shard: sentences of a shard; one shard is in memory.
        worker: which worker this is, from 0, where several machines fill one folder of shards.
        workers: how many there are.
        ray: so many workers of a Ray cluster (of this machine where there is none) instead.
        offline: never open a socket.
    """
    sharded = out.endswith("/")
    if sharded:
        stream = stream_sentences(source, column)
    else:
        check_output(out, (*WRITERS, STANDARD), source=source)
        if workers != 1 or worker != 0:
            raise InputError(
                f"worker is {worker} of {workers}, but --out {out} is one file. Expected a name that ends in /."
            )
        sentences = read_sentences(source, column)

    from minisbert import SentenceEncoder

    load = partial(SentenceEncoder.load, model, compute_dtype=compute_dtype, packing=packing, offline=offline)
    if ray is None:
        encoder = load()
    if on_truncate == "error" and not sharded:
        _refuse_long(encoder, sentences, prompt_name, prompt)
    options: dict[str, Any] = {
        "prompt": prompt,
        "prompt_name": prompt_name,
        "batch_size": batch_size,
        "show_progress_bar": sys.stderr.isatty(),
        "precision": precision,
        "normalize_embeddings": normalize,
        "truncate_dim": truncate_dim,
        "on_truncate": on_truncate,
    }
    if sharded and ray is not None:
        from minisbert.corpus.ray_shards import encode_on_ray

        texts = partial(stream_sentences, str(Path(source).absolute()), column)
        folder = Path(out).absolute()
        encode_on_ray(texts, load, folder, workers=ray, rows_per_shard=rows_per_shard, **options)
        return 0
    if sharded:
        from minisbert.corpus.shards import encode_shards

        place: dict[str, Any] = {"rows_per_shard": rows_per_shard, "worker": worker, "workers": workers}
        encode_shards(stream, encoder, Path(out), **place, **options)
        return 0
    # int8 steps are measured over the whole file, so it has to be one part.
    size = len(sentences.texts) if precision in ("int8", "uint8") else PART
    write_embeddings(out, _parts(encoder, sentences.texts, size, options), rows=len(sentences.texts))
    return 0


def _parts(
    encoder: "SentenceEncoder", texts: list[str], size: int, options: dict[str, Any]
) -> Iterator[tuple[list[str], "np.ndarray"]]:
    for start in range(0, max(len(texts), 1), max(size, 1)):
        part = texts[start : start + size]
        yield part, encoder.encode(part, **options)


def _refuse_long(encoder: "SentenceEncoder", sentences: Sentences, prompt_name: str | None, prompt: str | None) -> None:
    """Before anything is computed, and in the file's own line numbers, which `encode` cannot know."""
    for start in range(0, len(sentences.texts), PART):
        part = sentences.texts[start : start + PART]
        for row, count in enumerate(encoder.token_counts(part, prompt_name, prompt), start=start):
            if count.dropped:
                raise DataError(
                    f"{sentences.place(row)}: {count.tokens} tokens, {count.dropped} more than the model's "
                    f"{encoder.max_seq_length}. Shorten it, or pass --on-truncate warn to embed its beginning."
                )
