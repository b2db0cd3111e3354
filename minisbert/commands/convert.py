"""`minisbert convert`: a model's weights under minisbert's own names, and back again.

    minisbert convert all-MiniLM-L6-v2                                     # -> weights/all-MiniLM-L6-v2
    minisbert convert --back weights/all-MiniLM-L6-v2 --out original      # -> model.safetensors, as it was

A converted folder is a model folder like any other, `SentenceEncoder.load` reads it; only, its transformer's weights
are in `minisbert.safetensors`: float32, query, key and value joined, matrices as [in, out], named by the modules of
the code. What that changes is written down in the file, so that the way back gives the same tensors to the bit; that
is compared before the folder gets its name.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from minisbert.errors import InputError, MinisbertError

if TYPE_CHECKING:
    import numpy as np

    from minisbert.checkpoint.folder import ModelFolder
    from minisbert.pretrained import Pretrained

# What is copied as it is, besides the tokenizer: settings, and the papers of the model.
ROOT_FILES = ("modules.json", "config_sentence_transformers.json", "README.md", "LICENSE", "minisbert_source.json")
TRANSFORMER_FILES = ("config.json", "sentence_bert_config.json")
MODULE_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")


def convert(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    *,
    out: Annotated[str | None, arg(metavar="FOLDER")] = None,
    back: bool = False,
    offline: bool = False,
) -> int:
    """Convert a model's weights to minisbert's own names, or back.

    Example: minisbert convert all-MiniLM-L6-v2 --out weights/all-MiniLM-L6-v2

    Args:
        source: a folder, a known name, or a name on the hub; with --back, a folder that this command has made.
        out: the folder to write; weights/NAME by default. A model that is there already is replaced.
        back: write the original tensors again, under their own names.
        offline: never open a socket.
    """
    from minisbert.atomic_write import staged_folder
    from minisbert.checkpoint.convert import flatten
    from minisbert.checkpoint.converted import CONVERTED, write_converted
    from minisbert.checkpoint.tensors import WEIGHTS, write_tensors
    from minisbert.download.locate import locate
    from minisbert.pretrained import encoder_tensors, load_pretrained

    if back and out is None:
        raise InputError("--back needs --out, the folder to write the original to.")
    path = locate(source, offline=offline)
    target = Path(out or Path("weights") / Path(source).resolve().name).absolute()
    if path.resolve().is_relative_to(target.resolve()):
        raise InputError(f"{target}: is or holds the source itself, and would be replaced. Choose another --out.")
    model = load_pretrained(path, put=lambda name, array: array)  # stays in NumPy, off every device
    folder = model.folder
    if folder.router is not None or folder.model_type == "static":
        kind = "a Router, with a model a route" if folder.router else "a static model, a single table"
        raise InputError(f"{path}: is {kind}. Expected one transformer; there is nothing to convert here.")
    is_converted = (folder.transformer_path / CONVERTED).is_file()
    if is_converted and not back:
        raise InputError(f"{path}: is converted already, it has {CONVERTED}. Pass --back for the original.")
    if back and not is_converted:
        raise InputError(
            f"{path}: has no {CONVERTED}. Expected a folder made by `minisbert convert`; leave out --back."
        )
    with staged_folder(target) as staging:
        _copy_settings(folder, staging)
        here = staging / folder.transformer_path.relative_to(folder.path)
        if back:
            write_tensors(here / WEIGHTS, encoder_tensors(model))
            count = _compare(here, model)
        else:
            write_converted(here, replace(model.original, params=flatten(model.params["encoder"])))
            count = _compare(folder.transformer_path, _read_again(here, model))
    print(f"{target}\nThe original and the converted weights were compared: {count} tensors, the same to the bit.")
    return 0


def _copy_settings(folder: "ModelFolder", staging: Path) -> None:
    """Everything but the transformer's weights, at the same places."""
    from minisbert.checkpoint.settings import read_json
    from minisbert.pretrained import TOKENIZER_FILES

    chain = folder.path / "modules.json"
    modules = [folder.path / entry["path"] for entry in read_json(chain)[1:]] if chain.exists() else []
    wanted = [(folder.path, ROOT_FILES), (folder.transformer_path, (*TRANSFORMER_FILES, *TOKENIZER_FILES))]
    wanted += [(module, MODULE_FILES) for module in modules if module.resolve() != folder.transformer_path.resolve()]
    for place, patterns in wanted:
        there = staging / place.relative_to(folder.path)
        there.mkdir(parents=True, exist_ok=True)
        for file in (file for pattern in patterns for file in place.glob(pattern)):
            shutil.copyfile(file, there / file.name)


def _read_again(folder: Path, model: "Pretrained") -> "Pretrained":
    """The model with its encoder as it was just written."""
    from minisbert.checkpoint.convert import flatten, nest
    from minisbert.checkpoint.converted import read_converted

    shapes = {name: array.shape for name, array in flatten(model.params["encoder"]).items()}
    written = read_converted(folder, shapes)
    return replace(model, params={"encoder": nest(written.params)}, original=replace(written, params={}))


def _compare(original: Path, converted: "Pretrained") -> int:
    """The tensors of an original folder against those that a converted model gives back; returns how many there are.

    Raises:
        MinisbertError: any differs in name, dtype, shape or a single bit.
    """
    from minisbert.checkpoint.tensors import SafetensorsFiles
    from minisbert.pretrained import encoder_tensors

    files, given_back = SafetensorsFiles(original), encoder_tensors(converted)
    different = sorted(files.shapes().keys() ^ given_back.keys())
    different += [
        name for name in files.shapes().keys() & given_back.keys() if not _same(files.read(name), given_back[name])
    ]
    if different:
        raise MinisbertError(
            f"{original}: {len(different)} tensors do not survive the conversion: {', '.join(different)}. Nothing was "
            "written; please report this model."
        )
    return len(given_back)


def _same(a: "np.ndarray", b: "np.ndarray") -> bool:
    # Bytes, because 0.0 == -0.0.
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
