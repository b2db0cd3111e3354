"""`minisbert verify`: is a catalogued model the one it should be, and does minisbert compute it as others do?

    minisbert verify all-mpnet-base-v2

Three questions, each answered on a line: are the files the catalog's, to the byte; are the embeddings of five sentences
those of sentence-transformers (goldens.py); are their cosines those that the Pinecone article prints (demo.py)? What
cannot be asked, because nobody has recorded the answer, is said to be unverified.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from minisbert.commands.demo import PUBLISHED, SENTENCES
from minisbert.commands.demo import TOLERANCE as TABLE_TOLERANCE
from minisbert.commands.goldens import GOLDENS, Golden
from minisbert.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from minisbert.download.catalog import Model

# Measured on 200 texts: 4e-7 for MiniLM, 1.1e-6 for MPNet (README, "What is measured").
GOLDEN_TOLERANCE = 2e-6


def verify(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    *,
    folder: Annotated[str | None, arg(metavar="FOLDER")] = None,
    offline: bool = False,
) -> int:
    """Check a catalogued model: its files, its embeddings, the article's table.

    Example: minisbert verify all-MiniLM-L6-v2

    The exit code is 0 if something was compared and all of it agreed; 1 if anything differs, or if there is nothing to
    compare the model's numbers with.

    Args:
        name: a name of the catalog.
        folder: a folder that should be this model, instead of fetching it.
        offline: never open a socket.
    """
    from minisbert.download.catalog import MODELS, find
    from minisbert.download.locate import locate

    model = find(name)
    if model is None:
        raise InputError(
            f"{name!r} is not in the catalog. Expected one of {', '.join(row.name for row in MODELS)}; see "
            "`minisbert inspect` for any other model."
        )
    path = locate(name if folder is None else Path(folder), offline=offline)
    print(f"model    {model.repository}\nfolder   {path}")
    wrong = _check_files(path, model)

    import numpy as np

    from minisbert.sentence_encoder import SentenceEncoder

    embeddings = SentenceEncoder.load(path).encode(SENTENCES)
    golden, table = GOLDENS.get(model.name), PUBLISHED.get(model.name)
    if golden is None:
        print("goldens  unverified: nobody has recorded embeddings of this model (see minisbert/commands/goldens.py)")
    else:
        wrong += _report(
            "goldens", _from_golden(embeddings, golden), GOLDEN_TOLERANCE, "sentence-transformers' embeddings"
        )
    if table is None:
        print("table    none: the article prints no similarities of this model")
    else:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        difference = max(abs(float(unit[i] @ unit[j]) - cosine) for (i, j), cosine in table.items())
        wrong += _report("table", difference, TABLE_TOLERANCE, "the article's similarities")
    if wrong:
        print(f"result   WRONG: {', '.join(wrong)}")
    elif golden is None and table is None:
        print("result   unverified: it loads and computes, but there is nothing to compare its numbers with")
        return 1
    else:
        print("result   verified" + ("" if model.verified else " by its numbers; its files are unverified"))
    return 1 if wrong else 0


def _check_files(path: Path, model: "Model") -> list[str]:
    """Every file's digest against the catalog's; what is wrong."""
    from minisbert.download.staging import problem_with

    if not model.verified:
        print("files    unverified: the catalog has no digests of this model")
        return []
    problems = [
        f"{name}: {problem}" for name, record in model.files.items() if (problem := problem_with(path / name, record))
    ]
    for problem in problems:
        print(f"files    {problem}")
    if not problems:
        print(f"files    all {len(model.files)} as catalogued, by sha256")
    return ["files"] if problems else []


def _from_golden(embeddings: "np.ndarray", golden: Golden) -> float:
    """The largest difference in the recorded numbers, or, relative, in an embedding's length."""
    import numpy as np

    expected, norms = np.array(golden.embeddings), np.array(golden.norms)
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return float(max(np.abs(embeddings[:, : expected.shape[1]] - expected).max(), np.abs(lengths / norms - 1).max()))


def _report(what: str, difference: float, tolerance: float, from_what: str) -> list[str]:
    print(f"{what:<8} {difference:.1e} apart from {from_what} (at most {tolerance:.0e} expected)")
    return [] if difference <= tolerance else [what]  # a NaN is wrong too
