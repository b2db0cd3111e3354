"""How each family of encoders is computed: one file per family, with its paper's equations. `FAMILIES` lists them."""

from minisbert.checkpoint.families import FAMILIES

__all__ = ["FAMILIES"]
