"""`minisbert export`: a model as one portable program with its weights and tokenizer, to run without the model's code.

minisbert export all-MiniLM-L6-v2 minilm.exported
python -c "from minisbert.exported import ExportedEncoder; print(ExportedEncoder.load('minilm.exported').encode('a cat'))"
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    out: Annotated[Positional[str], arg(metavar="FOLDER")],
    *,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    offline: bool = False,
) -> int:
    """Export a model as a StableHLO program that runs without its code.

    Example: minisbert export all-MiniLM-L6-v2 exported --platforms cpu

    Args:
        model: a folder, a known name, or a name on the hub.
        out: the folder to write; an exported model that is there already is replaced.
        platforms: the kinds of device it is for: cpu, cuda, rocm, tpu.
        offline: never open a socket.
    """
    from minisbert.exported import ExportedEncoder, runs_here
    from minisbert.sentence_encoder import SentenceEncoder
    from minisbert.tasks.stablehlo import export_stablehlo

    encoder = SentenceEncoder.load(model, offline=offline)
    export_stablehlo(encoder, Path(out), platforms)
    text = "The program gives what the model gives."
    if runs_here(platforms):
        difference = abs(ExportedEncoder.load(out).encode(text) - encoder.encode(text)).max()
        print(f"the program's embedding of a text is {difference:.1e} apart from the model's")
    for file in sorted(Path(out).iterdir()):
        print(f"{file}  {file.stat().st_size:,} bytes")
    return 0
