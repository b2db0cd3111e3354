"""Where the time of a forward pass goes: not a test, a table of medians for one shape.

    python tests/benchmarks/profile_forward.py [--model all-MiniLM-L6-v2] [--rows 64] [--length 16] [--rounds 40]

Each part of a layer is compiled alone and takes its turn with the others and with the whole encoder, as `encode` runs it.
NumPy's products of the same sizes (OpenBLAS), the measure of what this machine multiplies at, come after: its threads wait
for more work on the processors for a while, which would slow down what comes next.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert import SentenceEncoder
from minisbert.transformer.attention import scaled_dot_product_attention
from minisbert.transformer.block import ACTIVATIONS


def matrix_rates(M: int = 1024, K: int = 384, N: int = 1536) -> dict[str, float]:
    """What this machine multiplies at, by dtype: operations per second of an M x K x N product by XLA, float32 result.

    The best of 20; to be called in a process of its own, whose threads end with it.
    """

    def rate(dtype: str) -> float:
        a, b = jnp.ones((M, K), dtype), jnp.ones((K, N), dtype)
        multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32))
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            jax.block_until_ready(multiply(a, b))
            seconds.append(time.perf_counter() - started)
        return 2 * M * K * N / min(seconds)

    return {dtype: rate(dtype) for dtype in ("float32", "bfloat16")}


def parts(config: Any, B: int, L: int) -> dict[str, tuple[Callable[..., Any], int]]:
    """Of one layer: a function without arguments, and its multiplications and additions where it is a matrix product."""
    T, D, F, N = B * L, config.hidden_size, config.intermediate_size, config.num_attention_heads
    rng = np.random.default_rng(0)

    def made(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def norm(x: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-12)

    def product(name: str, inner: int, outer: int) -> dict[str, tuple[Callable[..., Any], int]]:
        x, w = made(T, inner), made(inner, outer)
        compiled, x_device, w_device = jax.jit(jnp.matmul), jnp.asarray(x), jnp.asarray(w)
        flops = 2 * T * inner * outer
        return {
            name: (lambda: compiled(x_device, w_device), flops),
            f"  NumPy {T} x {inner} x {outer}": (lambda: x @ w, flops),
        }

    heads, mask = jnp.asarray(made(B, N, L, D // N)), jnp.ones((B, L), bool)
    attention, activation, normalize = (
        jax.jit(f) for f in (scaled_dot_product_attention, ACTIVATIONS[config.hidden_act], norm)
    )
    wide, narrow = jnp.asarray(made(T, F)), jnp.asarray(made(T, D))
    return {
        **product("query, key, value", D, 3 * D),
        "attention": (lambda: attention(heads, heads, heads, mask), 0),
        **product("attention output", D, D),
        **product("feed-forward up", D, F),
        "activation": (lambda: activation(wide), 0),
        **product("feed-forward down", F, D),
        "layer norm, twice": (lambda: (normalize(narrow), normalize(narrow)), 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    encoder = SentenceEncoder.load(options.model)
    B, L = options.rows, options.length
    config = encoder.pretrained.model_config.encoder
    table = parts(config, B, L)
    ids, lengths = np.full((B, L), 1000, np.int32), np.full(B, L, np.int32)
    table["whole"] = (lambda: encoder.forward(encoder.params, "sentence embeddings", ids, lengths, np.int32(0)), 0)
    seconds: dict[str, list[float]] = {name: [] for name in table}
    for names in ([name for name in table if name[0] != " "], [name for name in table if name[0] == " "]):
        for round_ in range(-2, options.rounds):
            for name in names:
                started = time.perf_counter()
                jax.block_until_ready(table[name][0]())
                if round_ >= 0:  # the first ones compile
                    seconds[name].append(time.perf_counter() - started)
    middle = {name: float(np.median(taken)) for name, taken in seconds.items()}
    layer = sum(taken for name, taken in middle.items() if name != "whole" and not name.startswith("  "))
    for name, taken in middle.items():
        of_layer = "" if name == "whole" or name.startswith("  ") else f"{taken / layer:6.0%} of a layer"
        rate = f"{table[name][1] / taken / 1e9:6.0f} GFLOP/s" if table[name][1] else ""
        print(f"{name:26} {1000 * taken:8.2f} ms {of_layer:18} {rate}")
    print(
        f"{B} x {L} tokens; {config.num_hidden_layers} layers of these parts {1000 * layer * config.num_hidden_layers:.0f} "
        f"ms; {B * L / middle['whole']:.0f} tokens per second"
    )


if __name__ == "__main__":
    main()
