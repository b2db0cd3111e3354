"""Writing a folder whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisbert.errors import InputError


def _is_model(folder: Path) -> bool:
    """Only a model may be replaced: a config.json alone is any program's.

    A static model's or a Router's modules lie in folders of their own, each with its weights.
    """
    weights = ("model.safetensors", "model.safetensors.index.json", "minisbert.safetensors")
    at_the_top = any((folder / name).is_file() for name in weights)
    if (folder / "modules.json").is_file():
        return at_the_top or any(folder.glob("*_*/model.safetensors"))
    return (folder / "config.json").is_file() and at_the_top


class staged_folder:
    """Context manager: a new empty folder beside `target` that takes its place on success and vanishes on failure.

    Args:
        target: a new path, or a folder of the same kind, which is replaced.
        kind: what the folder holds, for messages.
        is_kind: tells whether a folder that is there holds that.
    """

    def __init__(self, target: Path, kind: str = "model", is_kind: Callable[[Path], bool] = _is_model):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise InputError(
                f"{target}: exists and is not a folder. Expected a new path, or a folder with a {kind} to replace."
            )
        if target.is_dir() and any(target.iterdir()) and not is_kind(target):
            raise InputError(
                f"{target}: holds files but no {kind}. Expected a new path, or a folder with a {kind} to replace; nothing "
                "was written."
            )
        self.target = target
        self.staging = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Path:
        self.staging.mkdir(parents=True)
        return self.staging

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
            return
        for file in self.staging.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if self.target.exists():
            old = self.target.with_name(f".{self.target.name}.old-{uuid.uuid4().hex[:8]}")
            self.target.rename(old)
            try:
                self.staging.rename(self.target)
            except BaseException:
                old.rename(self.target)  # what was there stands again
                shutil.rmtree(self.staging, ignore_errors=True)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.staging.rename(self.target)
