"""notebooks/sbert_in_one_file.py: the same tokens and embeddings as the package, and the article's table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from varied_sentences import SENTENCES

from minisbert import MinisbertError, SentenceEncoder
from minisbert.download.locate import locate

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
import sbert_in_one_file as one_file

ROOT = Path(__file__).parents[2]

# The file says that it reads special tokens in a text as text.
PLAIN = [text for text in SENTENCES if not any(token in text for token in ("[", "<"))]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet"])
def test_tokens_and_embeddings_are_the_packages(name):
    folder = ROOT / "weights" / name
    model, encoder = one_file.load(folder), SentenceEncoder.load(folder)
    tokens = [encoder.tokenizer.tokenize([text], max_length=encoder.max_seq_length).ids[0] for text in PLAIN]
    assert [one_file.tokenize(text, model).tolist() for text in PLAIN] == [list(ids) for ids in tokens]
    texts = PLAIN[::3]
    expected = encoder.encode(texts, normalize_embeddings=True, on_truncate="ignore")
    np.testing.assert_allclose(one_file.encode(texts, model), expected, atol=1e-6)  # 1.5e-7


def test_it_needs_numpy_alone():
    code = (
        "import sys; sys.path.insert(0, 'notebooks'); import sbert_in_one_file as one; one.load('weights/tiny-mpnet');"
        "others = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'numpy', '__main__'};"
        "print(sorted(name for name in others if not name.startswith('_')))"
    )
    code = f"import sys; sys.path.append({str(Path(np.__file__).parents[1])!r}); {code}"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['sbert_in_one_file']"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere: no config.json, .*model.safetensors. Expected a folder"):
        one_file.load(tmp_path / "nowhere")


@pytest.mark.real
def test_the_articles_table(capsys, monkeypatch):
    try:
        folder = locate("all-mpnet-base-v2", offline=True)
    except MinisbertError:
        pytest.skip("minisbert download all-mpnet-base-v2")
    monkeypatch.setattr(sys, "argv", ["sbert_in_one_file.py", str(folder)])
    one_file.main()
    assert float(capsys.readouterr().out.split()[-1]) < 1e-6  # 1.2e-7
