"""`minisbert encode`: embed the sentences of a file.

minisbert encode corpus.txt.gz --model all-MiniLM-L6-v2 --out vectors/          # a folder of shards, for a file of any length
"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from minisbert.commands import flags
from minisbert.commands.outputs import STANDARD, WRITERS, check_output, write_embeddings
from minisbert.data.columns import Sentences, read_sentences, stream_sentences
from minisbert.errors import DataError, InputError

if TYPE_CHECKING:
    from minisbert.sentence_encoder import SentenceEncoder

# Sentences embedded before they are written: enough to fill batches, few enough to bound memory.
PART = 65_536


def encode(
    source: Annotated[Positional[str], arg(metavar="INPUT")],
    *,
    model: flags.Model,
    out: flags.File = STANDARD,
    column: flags.Column = "text",
    prompt: Annotated[str | None, arg(metavar="TEXT")] = None,
    prompt_name: flags.OptionalName = None,
    batch_size: flags.OptionalN = None,
    normalize: bool = False,
    truncate_dim: flags.OptionalN = None,
    precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] = "float32",
    engine: flags.Engine = "auto",
    compute_dtype: flags.ComputeDtype = "float32",
    packing: bool = False,
    on_truncate: Literal["warn", "error", "ignore"] = "warn",
    rows_per_shard: flags.N = 65_536,
    worker: flags.N = 0,
    workers: flags.N = 1,
    ray: flags.OptionalN = None,
    plan: bool = False,
    chip: flags.OptionalName = None,
    dump_hlo: flags.OptionalFile = None,
    offline: flags.Offline = False,
) -> int:
    """Embed the sentences of a file.

    Example: echo "a man eats" | minisbert encode - --model all-mpnet-base-v2 --out embeddings.npy

    Args:
        source: .txt (one sentence per line), .jsonl, .tsv, .csv (each also .gz), .parquet, or - for text on stdin.
        out: .npy, .jsonl, .parquet, or - for jsonl on stdout; a name that ends in / is a folder of .npy shards, for files
            larger than memory. It is resumable: rerun the command and only missing shards are computed.
        prompt: a text to put before each sentence.
        prompt_name: the name of a prompt in the model's settings.
        batch_size: sentences per batch; by default as many as fit 512 tokens.
        normalize: scale each embedding to length 1.
        truncate_dim: keep the first dimensions only (Matryoshka models).
        precision: dtype of the output; int8 and uint8 use the range of each dimension in this file.
        packing: put several short sentences into one row also in bfloat16, and if there are fewer than 128; changes last bits.
        on_truncate: what to do about sentences that are too long for the model.
        rows_per_shard: sentences per shard; one shard is in memory at a time.
        worker: the number of this worker, counted from 0, if several machines fill one folder of shards.
        workers: the number of workers.
        ray: instead, use this many workers of a Ray cluster (or of this machine if there is no cluster).
        plan: with --chip, print what the batches of this file need (memory, time, speed) and stop. Reads no weights.
        chip: the TPU whose own compiler is asked, such as v5e-8 (`minisbert train --help` lists them). Needs the extra
            tpu-plan and no TPU.
        dump_hlo: with --chip, a file for the compiled program of the commonest shape.
    """
    if (chip is not None or dump_hlo is not None) and not plan:
        raise InputError(f"chip is {chip}, dump_hlo {dump_hlo} without --plan. Expected all of them or none.")
    if plan:
        from minisbert.commands.plans import print_encode_plan

        shape: dict[str, Any] = {"compute_dtype": compute_dtype, "packing": packing, "batch_size": batch_size}
        given: dict[str, Any] = {
            "chip": chip,
            "dump_hlo": dump_hlo,
            "prompt": (prompt, prompt_name),
            "offline": offline,
        }
        print_encode_plan(model, stream_sentences(source, column), **given, **shape)
        return 0
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
    from minisbert.commands.loading import load_encoder

    if sharded:
        load = partial(SentenceEncoder, model, engine="jax" if engine == "auto" else engine)
    else:
        load = partial(load_encoder, model, sentences.texts, engine)
    load = partial(load, token_budget="tuned", compute_dtype=compute_dtype, packing=packing or None, offline=offline)
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
    if not sharded:
        encoder, texts = load(), sentences.texts
        if on_truncate == "error":
            _refuse_long(encoder, sentences, prompt_name, prompt)
        # int8 steps are measured over the whole file, so it has to be one part.
        size = PART if precision not in ("int8", "uint8") else max(len(texts), 1)
        parts = (texts[start : start + size] for start in range(0, max(len(texts), 1), size))
        write_embeddings(out, ((part, encoder.encode(part, **options)) for part in parts), rows=len(texts))
        if out != STANDARD:
            width = encoder.get_embedding_dimension()
            width = min(truncate_dim or width, width)
            print(f"{out}: {len(texts)} embeddings of {width} dimensions, {precision}")
        return 0
    options["rows_per_shard"] = rows_per_shard
    if ray is not None:
        from minisbert.corpus.ray_shards import encode_on_ray

        file = partial(stream_sentences, str(Path(source).absolute()), column)
        rows = encode_on_ray(file, load, Path(out).absolute(), workers=ray, **options)
    else:
        from minisbert.corpus.shards import encode_shards

        rows = encode_shards(stream, load(), Path(out), worker=worker, workers=workers, **options)
    share = f"; this is worker {worker} of {workers}, which makes every {workers}th shard" if workers > 1 else ""
    print(f"{out}: {rows} embeddings, {precision}, in shards of at most {rows_per_shard}{share}")
    return 0


def _refuse_long(encoder: "SentenceEncoder", sentences: Sentences, prompt_name: str | None, prompt: str | None) -> None:
    """Checked before anything is computed, with the line numbers of the file, which `encode` does not know."""
    for start in range(0, len(sentences.texts), PART):
        part = sentences.texts[start : start + PART]
        for row, count in enumerate(encoder.token_counts(part, prompt_name, prompt), start=start):
            if count.dropped:
                raise DataError(
                    f"{sentences.file.place(row)}: {count.tokens} tokens, {count.dropped} more than the model's "
                    f"{encoder.max_seq_length}. Shorten it, or pass --on-truncate warn to embed only its beginning."
                )
