"""The contestants of bench.py: how each library is loaded, and the table of them all.

Other frameworks are imported inside these functions, each in a process of its own. Each is used as its documentation advises
for many sentences. ONNX Runtime and OpenVINO get the whole model, pooling included, as traced from sentence-transformers; like
CTranslate2 they embed sentences sorted by length, in padded batches.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_training import Step, minisbert_step, sentence_transformers_step

if TYPE_CHECKING:
    import numpy as np

THROUGHPUT = ("short", "long")
SERVING = (*THROUGHPUT, "one")
EMBEDDING = (*SERVING, "cold", "memory")


class Loaded(NamedTuple):
    """A contestant, ready to embed."""

    encode: Callable[[list[str]], Any]  # texts -> float32 [texts, dimension]
    device: str


@dataclass(frozen=True)
class Contestant:
    """A library with its settings.

    Args:
        name: of the row in the table.
        dtype: of the matrix products.
        peer: its name for `--peer`.
        needs: the distributions that must be installed.
        load: model folder, workplace -> ready to embed.
        prepare: model folder, workplace -> None: convert the model, once per library.
        workloads: those it takes part in; a batch size, for example, makes no difference for a single sentence.
        trainer: model folder -> training step; contestants with one take part in "train".
        program: the arguments of `python` that start it.
    """

    name: str
    dtype: str
    peer: str
    needs: tuple[str, ...]
    load: Callable[[Path, Path], Loaded]
    prepare: Callable[[Path, Path], None] | None = None
    workloads: tuple[str, ...] = EMBEDDING
    trainer: Callable[[Path], Step] | None = None
    program: tuple[str, ...] = (str(Path(__file__).with_name("bench_worker.py")),)

    @property
    def key(self) -> str:
        """Its name in requests and records."""
        return f"{self.name} {self.dtype}"

    def takes_part(self, workload: str) -> bool:
        """Whether it runs this workload."""
        return workload in self.workloads or (workload == "train" and self.trainer is not None)


# --- the libraries -------------------------------------------------------------------------------------------------


def load_minisbert(
    folder: Path, workplace: Path, *, dtype: str = "float32", packing: bool | None = None, engine: str = "jax"
) -> Loaded:
    """minisbert with its defaults, and `packing` or another engine."""
    from minisbert import SentenceEncoder

    encoder = SentenceEncoder.load(folder, engine=engine, compute_dtype=dtype, packing=packing, offline=True)
    encode = partial(encoder.encode, show_progress_bar=False, on_truncate="ignore")
    if engine == "numpy":
        return Loaded(encode, "cpu")

    import jax  # by now imported anyway

    return Loaded(encode, jax.default_backend())


def load_sentence_transformers(
    folder: Path, workplace: Path, *, dtype: str, batch_size: int, compiled: bool = False
) -> Loaded:
    """Sentence-transformers, which sorts by length itself; `compiled` through torch.compile."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder)).to(getattr(torch, dtype))
    if compiled:
        model[0].compile(dynamic=True)
    encode = partial(model.encode, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
    return Loaded(encode, str(model.device))


def trace(folder: Path, workplace: Path, *, to: str) -> None:
    """Convert the model of sentence-transformers, whole, for ONNX Runtime or OpenVINO."""
    import torch
    from sentence_transformers import SentenceTransformer

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SentenceTransformer(str(folder), device="cpu").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

    names = ["input_ids", "attention_mask"]
    # Two rows of different lengths, so that the trace contains padding.
    ids_BL, mask_BL = torch.full((2, 7), 5), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        if to == "onnx":
            axes = {name: {0: "B", 1: "L"} for name in names}
            torch.onnx.export(
                Whole(),
                (ids_BL, mask_BL),
                str(workplace / "model.onnx"),
                input_names=names,
                dynamic_axes=axes,
                dynamo=False,
            )
        else:
            import openvino

            example = dict(zip(names, (ids_BL, mask_BL), strict=True))
            model = openvino.convert_model(Whole(), example_input=example, input=[(name, [-1, -1]) for name in names])
            openvino.save_model(model, workplace / "model.xml", compress_to_fp16=False)
    _save_limits(folder, workplace)


def load_onnxruntime(folder: Path, workplace: Path) -> Loaded:
    """ONNX Runtime on the CPU, with its default threads and graph optimisation."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(workplace / "model.onnx"), providers=["CPUExecutionProvider"])

    def run(ids_BL: "np.ndarray", mask_BL: "np.ndarray") -> "np.ndarray":
        return session.run(None, {"input_ids": ids_BL, "attention_mask": mask_BL})[0]

    return Loaded(_in_batches(workplace, run, batch_size=32), "cpu")


def load_openvino(folder: Path, workplace: Path, *, dtype: str, batch_size: int) -> Loaded:
    """OpenVINO on the CPU."""
    import openvino

    hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    model = openvino.Core().compile_model(workplace / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def run(ids_BL: "np.ndarray", mask_BL: "np.ndarray") -> "np.ndarray":
        return model({"input_ids": ids_BL, "attention_mask": mask_BL})[0]

    return Loaded(_in_batches(workplace, run, batch_size=batch_size), "cpu")


def convert_ctranslate2(folder: Path, workplace: Path) -> None:
    """CTranslate2's own format; it holds the transformer only, so any pooling but the mean is refused."""
    import ctranslate2

    from minisbert.checkpoint.folder import read_folder
    from minisbert.checkpoint.modules import Normalize, Pooling

    if read_folder(folder).modules not in [(Pooling(),), (Pooling(), Normalize())]:
        raise ValueError("only mean pooling is written for it here")
    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(workplace / "ctranslate2"), force=True)
    _save_limits(folder, workplace)


def load_ctranslate2(folder: Path, workplace: Path) -> Loaded:
    """CTranslate2 on all cores, mean pooling in NumPy."""
    import ctranslate2
    import numpy as np

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    encoder = ctranslate2.Encoder(
        str(workplace / "ctranslate2"), device="cpu", compute_type="float32", intra_threads=cores
    )
    normalize = json.loads((workplace / "limits.json").read_text())["normalize"]

    def run(ids_BL: "np.ndarray", mask_BL: "np.ndarray") -> "np.ndarray":
        lengths_B = mask_BL.sum(axis=1)
        rows = [ids_L[:length].tolist() for ids_L, length in zip(ids_BL, lengths_B, strict=True)]
        hidden_BLD = np.asarray(encoder.forward_batch(rows).last_hidden_state)
        mean_BD = np.einsum("bld,bl->bd", hidden_BLD, mask_BL.astype(np.float32)) / lengths_B[:, None]
        if normalize:
            mean_BD /= np.linalg.norm(mean_BD, axis=1, keepdims=True)
        return mean_BD.astype(np.float32)

    return Loaded(_in_batches(workplace, run, batch_size=32), "cpu")


def _save_limits(folder: Path, workplace: Path) -> None:
    """What an engine without sentence-transformers needs to know, in a small file for a quick start."""
    from minisbert.checkpoint.folder import read_folder
    from minisbert.checkpoint.modules import Normalize

    model = read_folder(folder)
    limits = {
        "tokenizer": str(model.transformer_path / "tokenizer.json"),
        "max_length": model.max_seq_length or model.config["max_position_embeddings"],
        "padding_id": model.config.get("pad_token_id") or 0,
        "normalize": Normalize() in model.modules,
    }
    (workplace / "limits.json").write_text(json.dumps(limits))


def _in_batches(workplace: Path, run: Callable[..., "np.ndarray"], *, batch_size: int) -> Callable[..., "np.ndarray"]:
    import numpy as np
    from tokenizers import Tokenizer

    limits = json.loads((workplace / "limits.json").read_text())
    tokenizer = Tokenizer.from_file(limits["tokenizer"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(limits["max_length"])

    def encode(texts: list[str]) -> "np.ndarray":
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        longest_first = sorted(range(len(texts)), key=lambda row: -len(ids[row]))
        embeddings: list[Any] = [None] * len(texts)
        for start in range(0, len(texts), batch_size):
            rows = longest_first[start : start + batch_size]
            ids_BL = np.full((len(rows), len(ids[rows[0]])), limits["padding_id"], np.int64)
            mask_BL = np.zeros_like(ids_BL)
            for b, row in enumerate(rows):
                ids_BL[b, : len(ids[row])] = ids[row]
                mask_BL[b, : len(ids[row])] = 1
            for row, sentence_D in zip(rows, run(ids_BL, mask_BL), strict=True):
                embeddings[row] = sentence_D
        return np.stack(embeddings)

    return encode


# --- the table -----------------------------------------------------------------------------------------------------

_TORCH = ("sentence-transformers", "torch")
_b32, _b128 = (partial(load_sentence_transformers, batch_size=size) for size in (32, 128))
_minisbert = partial(Contestant, peer="minisbert", needs=("jax",))
_packed = partial(_minisbert, "minisbert packed", workloads=THROUGHPUT)
_torch = partial(Contestant, peer="sentence-transformers", needs=_TORCH)
# torch.compile compiles for a minute at its start, so it takes no part where the start is measured.
_compiled = partial(Contestant, "torch.compile b128", peer="torch-compile", needs=_TORCH, workloads=SERVING)
_openvino = partial(Contestant, peer="openvino", needs=("openvino", *_TORCH), prepare=partial(trace, to="openvino"))

CONTESTANTS = (
    *(
        _minisbert(
            "minisbert", one, load=partial(load_minisbert, dtype=one), trainer=partial(minisbert_step, dtype=one)
        )
        for one in ("float32", "bfloat16")
    ),
    Contestant(
        "minisbert numpy",
        "float32",
        peer="minisbert",
        needs=("numpy",),
        load=partial(load_minisbert, engine="numpy"),
        workloads=("short", "one", "cold", "memory"),
    ),
    _packed(dtype="float32", load=partial(load_minisbert, dtype="float32", packing=True)),
    _packed(dtype="bfloat16", load=partial(load_minisbert, dtype="bfloat16", packing=True)),
    _torch(
        "sentence-transformers",
        "float32",
        load=partial(_b32, dtype="float32"),
        trainer=partial(sentence_transformers_step, dtype="float32"),
    ),
    _torch("sentence-transformers b128", "float32", load=partial(_b128, dtype="float32"), workloads=THROUGHPUT),
    _torch(
        "sentence-transformers b128",
        "bfloat16",
        load=partial(_b128, dtype="bfloat16"),
        trainer=partial(sentence_transformers_step, dtype="bfloat16"),
    ),
    _compiled(dtype="float32", load=partial(_b128, dtype="float32", compiled=True)),
    _compiled(dtype="bfloat16", load=partial(_b128, dtype="bfloat16", compiled=True)),
    Contestant(
        "onnxruntime",
        "float32",
        peer="onnxruntime",
        needs=("onnxruntime", "onnx", *_TORCH),
        load=load_onnxruntime,
        prepare=partial(trace, to="onnx"),
    ),
    _openvino("openvino", "float32", load=partial(load_openvino, dtype="float32", batch_size=32)),
    _openvino("openvino b128", "bfloat16", load=partial(load_openvino, dtype="bfloat16", batch_size=128)),
    Contestant(
        "ctranslate2",
        "float32",
        peer="ctranslate2",
        needs=("ctranslate2", "transformers", "torch"),
        load=load_ctranslate2,
        prepare=convert_ctranslate2,
    ),
)
