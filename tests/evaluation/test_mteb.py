"""evaluation/mteb.py: mteb's own mock tasks give what its wrapper of sentence-transformers gives for the same folder."""

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.errors import InputError
from minisbert.evaluation.mteb import MTEBModel

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
WHY = "the mteb extra is not installed: pip install torch (a CPU build will do), then pip install -e .[mteb]"


class Metadata:
    """What is read of mteb's TaskMetadata."""

    def __init__(self, name="SomeTask", type="STS"):
        self.name, self.type = name, type


def encode(model, *texts, prompt_type=None, task=None, **options):
    batches = [{"text": list(texts[:1])}, {"text": list(texts[1:])}]
    return model.encode(
        batches,
        task_metadata=task or Metadata(),
        hf_split="test",
        hf_subset="default",
        prompt_type=prompt_type,
        **options,
    )


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(InputError, match="pip install 'mteb>=2'"):
        MTEBModel(TINY)


def test_the_model_has_the_interface_of_mteb():
    pytest.importorskip("mteb", reason=WHY)
    from mteb.models.models_protocols import EncoderProtocol
    from mteb.types import PromptType

    encoder = SentenceEncoder.load(TINY)
    encoder.prompts = {"query": "find: ", "document": "text: ", "STS": "like: ", "SomeTask-query": "mine: "}
    model = MTEBModel(encoder)
    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("minisbert/tiny-bert", 32, 64)
    assert meta.n_parameters == 25_248  # as `minisbert inspect` counts them
    texts = ["a cat", "a dog"]
    for prompt_type, task, prompt in [
        (None, Metadata(type="Other"), None),
        (None, Metadata(), "like: "),
        (PromptType.query, Metadata(type="Other"), "mine: "),
        (PromptType.query, Metadata("Else", "Other"), "find: "),
        (PromptType.document, Metadata("Else", "Other"), "text: "),
        (PromptType.document, Metadata("Else", "STS"), "like: "),
    ]:
        found = encode(model, *texts, prompt_type=prompt_type, task=task, batch_size=1)
        np.testing.assert_allclose(found, encoder.encode(texts, prompt=prompt), rtol=0, atol=1e-6)
    assert encode(model, *texts, precision="int8").dtype == np.int8


def test_similarities_of_rows_and_of_single_vectors():
    pytest.importorskip("mteb", reason=WHY)
    model = MTEBModel(TINY)
    a, b = model.encoder.encode(["a cat", "a dog"]), model.encoder.encode(["a bird", "a man"])
    np.testing.assert_array_equal(model.similarity(a, b), model.encoder.similarity(a, b))
    np.testing.assert_array_equal(model.similarity_pairwise(a, b), model.encoder.similarity_pairwise(a, b))
    assert model.similarity(a[0], b).shape == (1, 2)
    assert float(model.similarity(a[0], b[0])) == pytest.approx(float(model.similarity(a, b)[0, 0]), abs=1e-6)
    assert float(model.similarity_pairwise(a[1], b[1])) == pytest.approx(float(model.similarity(a, b)[1, 1]), abs=1e-6)


def test_unknown_options_and_inputs_are_refused():
    pytest.importorskip("mteb", reason=WHY)
    model = MTEBModel(TINY)
    with pytest.raises(InputError, match=r"unknown options colour\. Expected only show_progress_bar, precision"):
        encode(model, "a", "b", colour="red")
    with pytest.raises(InputError, match=r"SomeTask gives image\. Expected text"):
        model.encode([{"image": [0]}], task_metadata=Metadata(), hf_split="test", hf_subset="default")


def text_tasks():
    """The names of mteb's mock tasks on texts."""
    try:
        import mteb.mocks.mock_tasks as mocks
    except ImportError:
        return ["mteb"]
    tasks = {name: task for name, task in vars(mocks).items() if inspect.isclass(task) and hasattr(task, "metadata")}
    # One of each kind; the multilingual ones are the same twice. Summaries of two rows correlate with nothing (NaN).
    return sorted(
        name
        for name, task in tasks.items()
        if task.metadata.modalities == ["text"] and "Multilingual" not in name and "Aggregate" not in name
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", text_tasks())
def test_a_task_scores_as_with_sentence_transformers(name):
    mteb = pytest.importorskip("mteb", reason=WHY)
    import mteb.mocks.mock_tasks as mocks
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(TINY), device="cpu", local_files_only=True)
    scores = []
    for model in (MTEBModel(TINY), SentenceTransformerEncoderWrapper(peer)):
        result = mteb.evaluate(model, getattr(mocks, name)(), cache=None, show_progress_bar=False, co2_tracker=False)
        [task] = result.task_results
        scores.append({split: [row["main_score"] for row in rows] for split, rows in task.scores.items()})
    assert scores[0].keys() == scores[1].keys()
    for split, values in scores[0].items():
        np.testing.assert_allclose(values, scores[1][split], rtol=0, atol=1e-5)
