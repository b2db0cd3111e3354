"""`minisbert export`: write a model as a portable program with its weights and tokenizer."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import Model, Offline


def export(
    model: Positional[Model],
    out: Annotated[Positional[str], arg(metavar="OUT")],
    *,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    onnx_length: int | None = None,
    offline: Offline = False,
) -> int:
    """Export a model as a StableHLO program that runs without the model's code.

    Example: minisbert export all-MiniLM-L6-v2 exported --platforms cpu

    Args:
        out: the folder (or .onnx file) to write; an existing exported model is replaced.
        platforms: the kinds of device that the program supports: cpu, cuda, rocm, tpu.
        onnx_length: write an ONNX file for rows of this many tokens instead; OUT ends in .onnx (needs jax2onnx).
    """
    from minisbert.export.runtime import ExportedEncoder, runs_here
    from minisbert.export.stablehlo import export_stablehlo
    from minisbert.sentence_encoder import SentenceEncoder

    encoder = SentenceEncoder.load(model, offline=offline)
    if onnx_length is not None:
        from minisbert.export.onnx import export_onnx

        difference = export_onnx(encoder, Path(out), length=onnx_length)
        print(f"largest difference from the model's embeddings: {difference:.1e}")
        print(f"{out}  {Path(out).stat().st_size:,} bytes")
        return 0
    export_stablehlo(encoder, Path(out), platforms)
    text = "A text to compare the program with the model."
    if runs_here(platforms):
        difference = abs(ExportedEncoder.load(out).encode(text) - encoder.encode(text)).max()
        print(f"largest difference from the model's embedding: {difference:.1e}")
    for file in sorted(Path(out).iterdir()):
        print(f"{file}  {file.stat().st_size:,} bytes")
    return 0
