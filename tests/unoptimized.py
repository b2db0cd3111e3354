"""Compiling is most of what many tests do. Where a program's speed and its last bits do not matter: XLA without optimizations.

    jax.jit(function, compiler_options=UNOPTIMIZED)
    subprocess.run(command, env=os.environ | IN_A_PROCESS)

A short run of the tiny BERT then takes 8 s of processor time instead of 23, most of it still compilation.
"""

import jax


def _accepted(options: dict[str, object]) -> dict[str, object]:
    """Those of the options that this XLA has; it refuses others."""
    found = {}
    for name, value in options.items():
        try:
            jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
        except RuntimeError:
            continue
        found[name] = value
    return found


# XLA's newer emitters set up MLIR anew for each fused operation: a third of the time that is left without optimizations.
UNOPTIMIZED = _accepted({"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
# The same for all programs of a process that a test starts.
IN_A_PROCESS = {"XLA_FLAGS": " ".join(f"--{name}={str(value).lower()}" for name, value in UNOPTIMIZED.items())}
