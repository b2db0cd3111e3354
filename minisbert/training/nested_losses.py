"""Losses around a loss: on shortened embeddings (Matryoshka), on those of the earlier layers (adaptive layers), or on both.

    matryoshka(loss, dimensions)                    Kusupati et al. 2022, section 3
    adaptive_layer(loss)                            Li et al. 2024 (2D Matryoshka Sentence Embeddings), section 3
    adaptive_layer(matryoshka(loss, dimensions))    the same: 2D Matryoshka

Each takes a loss and returns one. `reference/nested_losses.py` has them in NumPy and must agree.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.similarity import normalize
from minisbert.training.targets import Head, Targets


def matryoshka(
    loss: Callable[..., jax.Array], dimensions: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., jax.Array]:
    """Any loss on the first d dimensions of each embedding, for several d: sum over d of weight_d * loss(first d).

    Kusupati et al. 2022, section 3, equation 1. The truncated embeddings are scaled to length 1 before the loss, as they
    are in a search. A teacher's embeddings are truncated too, but not scaled; a guide's are not. All d share one softmax head
    (or projection) and use its rows for the first d dimensions (MRL-E, "efficient": W^(d) = W_{1:d}).

    Needs: what the wrapped loss needs. Weights default to 1.
    Use when: users should be able to truncate embeddings to save memory. Include the full width, or it is not trained.
    See also: `truncate_dim` of SentenceEncoder, which truncates.

    Example:
        >>> from minisbert.training.pair_losses import cosine_similarity
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])
        >>> loss = matryoshka(cosine_similarity, [2, 1], [1.0, 10.0])
        >>> round(float(loss(embeddings_SBD, Targets(labels_B=jnp.zeros(1)))), 4)  # 1/2 + 10 * 1
        10.5
    """
    weights = [1.0] * len(dimensions) if weights is None else weights
    if not dimensions or min(dimensions) < 1 or len(weights) != len(dimensions):
        raise InputError(
            f"matryoshka: dimensions are {dimensions}, weights {weights}. Expected at least one dimension, each at least "
            "1, and as many weights."
        )

    def summed(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, **options: Any) -> jax.Array:
        width = embeddings_SBD.shape[-1]
        if max(dimensions) > width:
            raise InputError(f"matryoshka: dimension {max(dimensions)} is more than the embeddings' {width}.")
        total = jnp.zeros((), embeddings_SBD.dtype)
        for dimension, weight in zip(dimensions, weights, strict=True):
            short_SBD = normalize(embeddings_SBD[..., :dimension])
            short_targets, short_head = targets, head
            if head and "kernel" in head:  # a projection gives embeddings of the teacher's width
                short_head = _first_rows(head, width, dimension)
            elif targets.teacher_SBD is not None:
                short_targets = targets._replace(teacher_SBD=targets.teacher_SBD[..., :dimension])
            total += weight * loss(short_SBD, short_targets, short_head, **options)
        return total

    return summed


def _first_rows(head: Head, width: int, dimension: int) -> Head:
    # The kernel's rows are parts (u, v, |u - v|) of `width` rows each; every part keeps its first rows.
    kernel_PDC = head["kernel"].reshape(-1, width, head["kernel"].shape[1])
    return {**head, "kernel": kernel_PDC[:, :dimension].reshape(-1, kernel_PDC.shape[2])}


# The weight of layer i, 0 being the token embeddings.
LAYER_WEIGHTS: dict[str, Callable[[int], float]] = {
    "uniform": lambda i: 1.0,
    "linear": lambda i: 1 / (1 + i),
    "log": lambda i: 1 / (1 + math.log(1 + i)),
}


def adaptive_layer(
    loss: Callable[..., jax.Array],
    *,
    last_layer_weight: float = 1.0,
    prior_layers_weight: float = 1.0,
    layer_weighting: str = "uniform",
    kl_weight: float = 1.0,
    kl_temperature: float = 0.3,
) -> Callable[..., jax.Array]:
    """Any loss on the embeddings of every layer, and the last layer as the teacher of the earlier ones.

        w_last loss(last) + sum over earlier layers i of ( w_prior w_i / (I - 1) loss(layer i) + w_kl T KL(p_last || p_i) )

    Li et al. 2024, section 3. p = softmax(embedding / T) over its dimensions; the last layer gets no gradient from KL, which
    is averaged over texts. Left out: drawing one earlier layer per step (sentence-transformers' default), of whose loss this
    is the mean; the embeddings of all layers come from one forward pass anyway.

    Needs: `embeddings_SBID` of the token embeddings and of every block: `Loss(..., embeds="layers")`, or `adaptive_layers`
        in TrainConfig. Otherwise what the wrapped loss needs.
    Use when: users should be able to drop upper layers to save time.
    See also: `matryoshka`; both together are 2D Matryoshka.

    Shapes: embeddings `[S, B, I, D]` -> scalar.

    Example:
        >>> from minisbert.training.pair_losses import cosine_similarity
        >>> embeddings_SBID = jnp.ones((2, 1, 3, 4))  # cosines 1, scores 0
        >>> float(adaptive_layer(cosine_similarity)(embeddings_SBID, Targets(labels_B=jnp.zeros(1))))  # 1 + (1 + 1) / 2
        2.0
    """
    check_choice("adaptive_layer: layer_weighting", layer_weighting, list(LAYER_WEIGHTS))
    if not kl_temperature > 0:
        raise InputError(f"adaptive_layer: kl_temperature is {kl_temperature}. Expected a number above 0.")

    def of_all_layers(
        embeddings_SBID: jax.Array, targets: Targets, head: Head | None = None, **options: Any
    ) -> jax.Array:
        if embeddings_SBID.ndim != 4 or embeddings_SBID.shape[2] < 2:
            raise InputError(
                f"adaptive_layer: the embeddings have shape {embeddings_SBID.shape}. Expected [S, B, I, D] with I >= 2 layers: "
                'a Loss with embeds="layers", of a model with layers.'
            )
        earlier_ISBD, last_SBD = jnp.moveaxis(embeddings_SBID, 2, 0)[:-1], embeddings_SBID[:, :, -1]
        weight_I = jnp.array([LAYER_WEIGHTS[layer_weighting](i) for i in range(len(earlier_ISBD))], last_SBD.dtype)
        loss_I = jax.vmap(lambda layer_SBD: loss(layer_SBD, targets, head, **options))(earlier_ISBD)
        log_p_SBD = jax.nn.log_softmax(jax.lax.stop_gradient(last_SBD) / kl_temperature)
        log_p_ISBD = jax.nn.log_softmax(earlier_ISBD / kl_temperature)
        divergence_I = jnp.sum(jnp.exp(log_p_SBD) * (log_p_SBD - log_p_ISBD), axis=-1).mean(axis=(1, 2))
        total: jax.Array = last_layer_weight * loss(last_SBD, targets, head, **options)
        total += prior_layers_weight * jnp.mean(weight_I * loss_I)
        return total + kl_weight * kl_temperature * jnp.sum(divergence_I)

    return of_all_layers
