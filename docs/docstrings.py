"""How docstrings become pages: a griffe extension that mkdocs.yml names.

The docstrings call their runnable example "Example:"; griffe knows that section as "Examples:".
"""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Give griffe the section names that it knows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class and function."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:\n(?= +>>>)", "Examples:\n", obj.docstring.value, flags=re.MULTILINE
            )
