"""corpus/shards.py: the same embeddings as in one call, whatever was interrupted; another corpus or model is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.commands import main
from minisbert.corpus.shards import encode_shards, read_shards
from minisbert.errors import DataError, InputError

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
TEXTS = [f"sentence {i} of {'many ' * (i % 5)}" for i in range(25)]


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.load(TINY)


@pytest.fixture(scope="module")
def expected(encoder):
    return encoder.encode(TEXTS)


def whole(folder):
    return np.concatenate(list(read_shards(folder)))


def test_shards_equal_one_call_of_encode(encoder, expected, tmp_path):
    assert encode_shards(iter(TEXTS), encoder, tmp_path, rows_per_shard=10) == 25
    assert [len(shard) for shard in read_shards(tmp_path)] == [10, 10, 5]
    np.testing.assert_allclose(whole(tmp_path), expected, atol=1e-6)


def test_workers_fill_one_folder(encoder, expected, tmp_path):
    for worker in (2, 0, 1):
        encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=4, worker=worker, workers=3)
    np.testing.assert_allclose(whole(tmp_path), expected, atol=1e-6)


def test_what_was_interrupted_goes_on_and_ends_the_same(encoder, tmp_path):
    encode_shards(TEXTS, encoder, tmp_path / "undisturbed", rows_per_shard=10)

    def cut():
        yield from TEXTS[:14]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_shards(cut(), encoder, tmp_path / "cut", rows_per_shard=10)
    with pytest.raises(DataError, match=r"no rows\.json"):
        list(read_shards(tmp_path / "cut"))
    first = (tmp_path / "cut" / "00000.npy").stat().st_mtime_ns
    command = (
        f"from minisbert.atomic_write import *; path_next_to(Path({str(tmp_path / 'cut' / '00001.npy')!r})).touch()"
    )
    subprocess.run([sys.executable, "-c", command], check=True)  # as if it had been killed
    assert list((tmp_path / "cut").glob(".00001.npy.partial-*"))
    encode_shards(TEXTS, encoder, tmp_path / "cut", rows_per_shard=10)
    assert (tmp_path / "cut" / "00000.npy").stat().st_mtime_ns == first
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("undisturbed", "cut")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def cut(content):
    return content[:-100]


def flipped(content):
    return content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]


@pytest.mark.parametrize("name", ["00001.npy", "00001.json"])
@pytest.mark.parametrize("spoil", [cut, flipped])
def test_a_damaged_shard_is_named_and_computed_again(encoder, tmp_path, caplog, name, spoil):
    encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / name).write_bytes(spoil(before[name]))
    with pytest.raises(DataError, match=name):
        list(read_shards(tmp_path))
    encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10)
    assert f"{tmp_path / name}: " in caplog.text and "computed again" in caplog.text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_shards_of_an_earlier_version_are_read_and_not_computed_again(encoder, tmp_path, caplog):
    encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10)
    for path in tmp_path.glob("*.json"):
        record = json.loads(path.read_text())
        record.pop("embeddings_sha256", None), record.pop("checksum")
        path.write_text(json.dumps(record))
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npy"))]
    encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npy"))] == times and not caplog.text
    assert [len(shard) for shard in read_shards(tmp_path)] == [10, 10, 5]


def test_another_corpus_model_or_option_is_refused(encoder, tmp_path):
    encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10)
    with pytest.raises(DataError, match="has other texts"):
        encode_shards(["another", *TEXTS[1:]], encoder, tmp_path, rows_per_shard=10)
    with pytest.raises(DataError, match="another options"):
        encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10, normalize_embeddings=True)
    with pytest.raises(DataError, match="another fingerprint"):
        encode_shards(TEXTS, SentenceEncoder.load(TINY.with_name("tiny-mpnet")), tmp_path, rows_per_shard=10)
    (tmp_path / "00001.npy").unlink()
    with pytest.raises(DataError, match=r"1 of 3 shards are missing \(1\)"):
        list(read_shards(tmp_path))


def test_invalid_options_do_not_claim_the_folder(encoder, tmp_path):
    with pytest.raises(InputError, match="batch_size is 0"):
        encode_shards(TEXTS, encoder, tmp_path, batch_size=0)
    assert list(tmp_path.iterdir()) == []
    assert encode_shards(TEXTS, encoder, tmp_path, batch_size=8) == 25
    with pytest.raises(DataError, match="another options"):
        encode_shards(TEXTS, encoder, tmp_path, batch_size=0)
    assert len(whole(tmp_path)) == 25


def test_an_empty_corpus_has_no_shards(encoder, tmp_path):
    assert encode_shards([], encoder, str(tmp_path / "none")) == 0
    assert list(read_shards(str(tmp_path / "none"))) == []


def test_whole_numbers_of_numpy_and_folders_as_text(encoder, tmp_path):
    options = {"rows_per_shard": np.uint8(10), "worker": np.int8(0), "truncate_dim": np.int64(16)}
    assert encode_shards(TEXTS, encoder, str(tmp_path), **options) == 25
    assert encode_shards(TEXTS, encoder, tmp_path, rows_per_shard=10, truncate_dim=16) == 25  # the same options
    assert whole(str(tmp_path)).shape == (25, 16)


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ("corpus.txt", {}, "texts is 'corpus.txt'"),
        (7, {}, "texts is 7"),
        (["a", "b", 5], {"rows_per_shard": 2}, r"texts\[2\] is 5"),
        (["a"], {"worker": 0.5}, "worker is 0.5"),
        (["a"], {"worker": 1}, "worker is 1 of 1"),
        (["a"], {"output_value": "token_embeddings"}, "output_value"),
        (["a"], {"out": np.zeros((1, 32))}, "out"),
        (["a"], {"prompt": b"query: "}, "prompt is b'query: '"),
        (["a"], {"folder": 5}, "folder is 5"),
    ],
)
def test_bad_arguments_are_named(encoder, tmp_path, texts, options, message):
    with pytest.raises(InputError, match=message):
        encode_shards(texts, encoder, **{"folder": tmp_path} | options)
    with pytest.raises(InputError, match="folder is 5"):
        next(read_shards(5))


def test_a_folder_of_something_else_is_left_alone(encoder, tmp_path):
    (tmp_path / "letters.txt").write_text("precious")
    with pytest.raises(DataError, match=r"holds letters\.txt and no shards\.json"):
        encode_shards(TEXTS, encoder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int8"}, "needs the ranges of the whole corpus"),
        ({"worker": 2, "workers": 2}, "counted from 0"),
        ({"rows_per_shard": 0}, "at least 1"),
    ],
)
def test_options_that_shards_cannot_have(encoder, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        encode_shards(TEXTS, encoder, tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_a_local_ray_makes_the_same_bytes(encoder, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the ray extra: pip install 'minisbert[ray]'")
    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS) + "\n")
    arguments = ["encode", str(tmp_path / "corpus.txt"), "--model", str(TINY), "--rows-per-shard", "10"]
    assert main([*arguments, "--out", f"{tmp_path}/alone/"]) == 0
    try:
        assert main([*arguments, "--out", f"{tmp_path}/ray/", "--ray", "2"]) == 0
    finally:
        ray.shutdown()
    for name in ("00000.npy", "00001.npy", "00002.npy", "rows.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_the_command_writes_shards_where_out_ends_in_a_slash(tmp_path, expected, capsys):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    arguments = ["encode", str(tmp_path / "corpus.jsonl"), "--model", str(TINY), "--rows-per-shard", "10"]
    assert main([*arguments, "--out", f"{tmp_path}/vectors/"]) == 0
    np.testing.assert_allclose(whole(tmp_path / "vectors"), expected, atol=1e-6)
    said = f"{tmp_path}/vectors/: {len(TEXTS)} embeddings, float32, in shards of at most 10\n"
    assert capsys.readouterr().out == said
    assert main([*arguments, "--out", f"{tmp_path}/v.npy", "--workers", "2"]) == 2
    assert "ends in /" in capsys.readouterr().err
