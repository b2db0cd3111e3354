"""`minisbert verify`: check that a model of the catalog has the right files and embeddings.

Three checks, one line each: every file has the digest in the catalog; the embeddings of five sentences match
sentence-transformers (goldens.json); their cosines match the Pinecone article (demo.py).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from minisbert.commands.demo import PUBLISHED, SENTENCES, largest_difference
from minisbert.commands.demo import TOLERANCE as TABLE_TOLERANCE
from minisbert.commands.flags import Name, Offline, OptionalFolder
from minisbert.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from minisbert.download.catalog import Model

# Per model: the first 8 numbers of the embeddings of the demo's five sentences, and the embeddings' lengths. Written by
# tests/goldens/article.py with sentence-transformers 6.2.0, transformers 5.23.0 and torch 2.13.0, from folders whose every
# file had the catalog's sha256. To add a model, add its files' digests to the catalog and run that file.
GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text(encoding="utf-8"))
# Measured on 200 texts: 4e-7 for MiniLM, 1.1e-6 for MPNet (docs/parity.md).
GOLDEN_TOLERANCE = 2e-6


def verify(name: Positional[Name], *, folder: OptionalFolder = None, offline: Offline = False) -> int:
    """Check a model of the catalog: its files, its embeddings, the article's table.

    Example: minisbert verify all-MiniLM-L6-v2

    The exit code is 0 if something was compared and everything agreed; 1 if anything differs, or if there are no
    recorded embeddings.

    Args:
        name: a name in the catalog.
        folder: check this folder instead of downloading the model.
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

    from minisbert import SentenceEncoder
    from minisbert.similarity import cosine

    embeddings = SentenceEncoder(path).encode(SENTENCES)
    golden, table = GOLDENS.get(model.name), PUBLISHED.get(model.name)
    if golden is None:
        print("goldens  unverified: no embeddings of this model are recorded (see minisbert/commands/goldens.json)")
    else:
        wrong += _report(
            "goldens", _from_golden(embeddings, golden), GOLDEN_TOLERANCE, "sentence-transformers' embeddings"
        )
    if table is None:
        print("table    none: the article has no similarities of this model")
    else:
        difference = largest_difference(np.asarray(cosine(embeddings, embeddings)), table)
        wrong += _report("table", difference, TABLE_TOLERANCE, "the article's similarities")
    if wrong:
        print(f"result   WRONG: {', '.join(wrong)}")
    elif golden is None and table is None:
        print("result   unverified: the model loads and computes, but there are no recorded embeddings to compare with")
        return 1
    else:
        print("result   verified" + ("" if model.verified else " by its embeddings; its files are unverified"))
    return 1 if wrong else 0


def _check_files(path: Path, model: "Model") -> list[str]:
    """Compare every file's digest with the catalog; returns ["files"] if one differs."""
    from minisbert.download.staging import problem_with

    if not model.verified:
        print("files    unverified: the catalog has no digests for this model")
        return []
    problems = [
        f"{name}: {problem}" for name, record in model.files.items() if (problem := problem_with(path / name, record))
    ]
    for problem in problems:
        print(f"files    {problem}")
    if not problems:
        print(f"files    all {len(model.files)} match the catalog's sha256")
    return ["files"] if problems else []


def _from_golden(embeddings: "np.ndarray", golden: dict[str, Any]) -> float:
    """The largest absolute difference from the recorded numbers, or relative difference in an embedding's length."""
    import numpy as np

    expected, norms = np.array(golden["embeddings"]), np.array(golden["norms"])
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return float(max(np.abs(embeddings[:, : expected.shape[1]] - expected).max(), np.abs(lengths / norms - 1).max()))


def _report(what: str, difference: float, tolerance: float, from_what: str) -> list[str]:
    print(f"{what:<8} {difference:.1e} from {from_what} (at most {tolerance:.0e} expected)")
    return [] if difference <= tolerance else [what]  # a NaN is wrong too
