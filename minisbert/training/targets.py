"""The targets of a loss (labels, text hashes, embeddings of a teacher or guide), and what losses share: their checks, and |x|.

Shapes are known while JAX traces, so a check fails before the first step and costs nothing afterwards.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from minisbert.errors import InputError

Array = Any  # NumPy's on the host, JAX's inside a compiled step
Head = dict[str, jax.Array]  # the parameters of a loss


@runtime_checkable
class Teacher(Protocol):
    """A model whose embeddings a loss copies or is guided by, such as a SentenceEncoder."""

    def encode(self, sentences: Any, *, show_progress_bar: bool | None) -> Any:
        """One embedding per text, `[texts, D]`."""
        ...

    def get_embedding_dimension(self) -> int:
        """D."""
        ...


class Targets(NamedTuple):
    """What is known about a batch of B examples with S texts each; every loss uses its own part of it.

    Example:
        >>> Targets(labels_B=jax.numpy.array([0, 2])).hashes_SB is None
        True
    """

    labels_B: Array | None = None
    """Class ids (int32), scores (float32) or 0 / 1; the teacher's margins may be `[B, S - 2]` or `[B, S - 1]`. The relevance
    of documents is `[B, S - 1]`, of S - 1 pairs; NaN where a query has fewer."""
    hashes_SB: Array | None = None
    """A uint32 hash of each text, by which in-batch negatives recognise duplicates; two texts collide once in 2^32."""
    teacher_SBD: Array | None = None
    """The teacher's embedding of each text, or `[1, B, D]` or `[B, D]`: one for all texts of an example."""
    guide_SBD: Array | None = None
    """A guide's embedding of each text, of any width; nothing truncates it."""
    tokens_BL: Array | None = None
    """int32 token ids of a text per example, -1 after its end: what a decoder should write."""


def texts(loss: str, embeddings_SBD: jax.Array, least: int, most: int | None = None) -> jax.Array:
    """The embeddings, after a check that the loss can use this number of texts per example."""
    shape = embeddings_SBD.shape
    if len(shape) != 3 or shape[0] < least or (most is not None and shape[0] > most):
        wanted = f"S = {least}" if least == most else f"S >= {least}" if most is None else f"{least} <= S <= {most}"
        raise InputError(
            f"{loss}: the embeddings have shape {shape}. Expected [S, B, D] with {wanted} texts per example: "
            "name that many text columns, or choose another loss."
        )
    return embeddings_SBD


def labels(loss: str, targets: Targets, embeddings_SBD: jax.Array) -> jax.Array:
    """One label per example; a `[B, 1]` column is refused, because it would broadcast against `[B]` to all pairs."""
    labels_B: jax.Array | None = targets.labels_B
    batch = embeddings_SBD.shape[1]
    if labels_B is None or labels_B.shape != (batch,):
        raise InputError(
            f"{loss}: targets.labels_B has shape {None if labels_B is None else labels_B.shape}. Expected ({batch},), one "
            "label per example: name the label column, or choose a loss that needs no labels."
        )
    return labels_B


def margins(loss: str, targets: Targets, batch: int, count: int) -> jax.Array:
    """The teacher's margin of each of `count` negatives, `[batch, count]`, given as margins or as scores."""
    teacher: jax.Array | None = targets.labels_B
    if teacher is not None and teacher.shape == (batch, count + 1):
        teacher = teacher[:, :1] - teacher[:, 1:]
    elif teacher is not None and teacher.shape == (batch,):
        teacher = teacher[:, None]
    if teacher is None or teacher.shape != (batch, count):
        raise InputError(
            f"{loss}: targets.labels_B has shape {None if targets.labels_B is None else targets.labels_B.shape}. "
            f"Expected {(batch, count)}, the teacher's margin of each negative, or {(batch, count + 1)}, its scores."
        )
    return teacher


def absolute(x: jax.Array) -> jax.Array:
    """|x| with gradient 0 at 0, as in torch; `jnp.abs` has 1 there, as if equal sentences differed.

    Example:
        >>> float(absolute(jnp.float32(-2.0))), float(jax.grad(absolute)(0.0))
        (2.0, 0.0)
    """
    return x * jnp.sign(x)
