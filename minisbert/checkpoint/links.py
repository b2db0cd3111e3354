"""Links in a model folder: what is read lies inside the folder, or in the Hugging Face cache's store beside it.

A folder that came as an archive or a git clone can hold links to any file of this machine, and saving the model would
copy what they point to.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from minisbert.errors import ModelFolderError

# What is read of a model folder.
_READ = (".json", ".txt", ".safetensors")


def refuse_links_out(folder: Path, parts: Iterable[Path] = ()) -> None:
    """No file that is read is a link to a place outside.

    Args:
        folder: the model's.
        parts: folders of its modules; those that are not there are left to their readers.

    Raises:
        ModelFolderError: naming the file and where the link leads.
    """
    home = folder.resolve()
    stores = [home]
    if (
        home.parent.name == "snapshots"
    ):  # the Hugging Face cache: snapshots/<commit>/config.json -> ../../blobs/<digest>
        stores.append(home.parent.parent / "blobs")  # itself no link: that could lead anywhere
    for part in {folder, *parts}:
        for file in sorted(part.iterdir()) if os.path.isdir(part) else ():
            if file.suffix not in _READ:
                continue
            try:
                target = file.resolve()
            except (OSError, RuntimeError):  # links in a circle
                target = None
            if target is None or not target.exists() or not any(target.is_relative_to(store) for store in stores):
                where = "nowhere" if target is None else target
                raise ModelFolderError(
                    f"{file}: is a link that leads out of the model folder, to {where}. Expected a file in the folder; "
                    "put the file there if the link is yours, else do not use this model."
                )
