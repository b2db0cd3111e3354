"""`minisbert convert`: rename a model's weights to minisbert's own names, and back again.

The weights of the transformer are in `minisbert.safetensors`: float32, query, key and value joined, matrices as [in, out],
named after the modules in the code, with what the conversion changed. So converting back restores every tensor bit for bit;
the command checks this before the folder appears.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import Offline, OptionalFolder
from minisbert.errors import InputError, MinisbertError

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder
    from minisbert.pretrained import Pretrained

# Copied unchanged, in addition to the tokenizer: the settings and documents of the model.
ROOT_FILES = ("modules.json", "config_sentence_transformers.json", "README.md", "LICENSE", "minisbert_source.json")
TRANSFORMER_FILES = ("config.json", "sentence_bert_config.json")
MODULE_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")


def convert(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    *,
    out: OptionalFolder = None,
    back: bool = False,
    offline: Offline = False,
) -> int:
    """Convert a model's weights to minisbert's own names, or back.

    Example: minisbert convert all-MiniLM-L6-v2 --out weights/all-MiniLM-L6-v2

    Args:
        source: a folder, a known name, or a name on the hub; with --back, a folder that this command wrote.
        out: the folder to write; weights/NAME by default. An existing model is replaced.
        back: restore the original tensors under their original names.
    """
    from minisbert.atomic_write import staged_folder
    from minisbert.checkpoint.convert import flatten, nest
    from minisbert.checkpoint.converted import CONVERTED, read_converted, write_converted
    from minisbert.checkpoint.tensors import WEIGHTS, write_tensors
    from minisbert.download.locate import locate
    from minisbert.pretrained import encoder_tensors, load_pretrained

    if back and out is None:
        raise InputError("--back needs --out, the folder to write the original to.")
    path = locate(source, offline=offline)
    target = Path(out or Path("weights") / Path(source).resolve().name).absolute()
    if path.resolve().is_relative_to(target.resolve()):
        raise InputError(f"{target}: is or contains the source, which would be replaced. Choose another --out.")
    model = load_pretrained(path, put=lambda array: array)  # in NumPy, not on a device
    folder = model.folder
    if folder.router is not None or folder.is_static:
        kind = "a Router with one model per route" if folder.router else "a static model with a single table"
        raise InputError(f"{path}: is {kind}. Expected a model with one transformer; there is nothing to convert.")
    if "adapter" in folder.sources:
        raise InputError(
            f"{path}: has adapters. Expected a model without; save it with SentenceEncoder, and convert that."
        )
    is_converted = (folder.transformer_path / CONVERTED).is_file()
    if is_converted and not back:
        raise InputError(f"{path}: is already converted (it has {CONVERTED}). Pass --back for the original.")
    if back and not is_converted:
        raise InputError(f"{path}: has no {CONVERTED}. Expected the output of `minisbert convert`; omit --back.")
    with staged_folder(target) as staging:
        _copy_settings(folder, staging)
        written = staging / folder.transformer_path.relative_to(folder.path)
        if back:
            write_tensors(written / WEIGHTS, encoder_tensors(model))
            count = _compare(written, model)
        else:
            params = flatten(model.params["encoder"])
            write_converted(written, replace(model.original, params=params))
            again = read_converted(written, {name: array.shape for name, array in params.items()})
            converted = replace(model, params={"encoder": nest(again.params)}, original=replace(again, params={}))
            count = _compare(folder.transformer_path, converted)
    print(f"{target}\nCompared the original and the converted weights: {count} tensors, identical bit for bit.")
    return 0


def _copy_settings(folder: "ModelFolder", staging: Path) -> None:
    """Copy everything but the weights of the transformer to the same places."""
    from minisbert.checkpoint.json_file import read_json
    from minisbert.checkpoint.settings import TOKENIZER_FILES, ModelFiles

    chain, files = folder.path / "modules.json", ModelFiles(folder.path)
    modules = [folder.path / entry["path"] for entry in read_json(chain)[1:]] if chain.exists() else []
    patterns: dict[Path, tuple[str, ...]] = {module.resolve(): MODULE_FILES for module in modules}
    patterns[folder.transformer_path.resolve()] = (*TRANSFORMER_FILES, *TOKENIZER_FILES)
    for place, names in [(folder.path.resolve(), ROOT_FILES), *patterns.items()]:
        there = staging / place.relative_to(folder.path.resolve())
        there.mkdir(parents=True, exist_ok=True)
        for file in (file for name in names for file in place.glob(name)):
            if file.is_symlink():
                files.refuse_link_out(file)
            shutil.copyfile(file, there / file.name)


def _compare(original: Path, converted: "Pretrained") -> int:
    """Check that converting back gives the tensors of the original folder, bit for bit; returns their number."""
    from minisbert.checkpoint.tensors import SafetensorsFiles
    from minisbert.pretrained import encoder_tensors

    files, restored = SafetensorsFiles(original), encoder_tensors(converted)
    different = sorted(files.shapes().keys() ^ restored.keys())
    for name in files.shapes().keys() & restored.keys():
        a, b = files.read(name), restored[name]
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():  # bytes, because 0.0 == -0.0
            different.append(name)
    if different:
        raise MinisbertError(
            f"{original}: {len(different)} tensors do not survive the conversion: {', '.join(different)}. Nothing was "
            "written; please report this model."
        )
    return len(restored)
