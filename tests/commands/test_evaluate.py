"""`minisbert evaluate` on tiny models: what it prints, writes and refuses."""

import json

import pytest

HEAD = "score\tsentence1\tsentence2\n"
ROWS = [
    "5\ta cat sits\ta cat sits down",
    "1\ta dog\tthe stock market",
    "3.5\ta man plays\ta man sings",
    "0\tx\tcats fly",
]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "one.tsv", tmp_path / "two.tsv"]
    paths[0].write_text(HEAD + "\n".join(ROWS) + "\n")
    paths[1].write_text(HEAD + "\n".join(ROWS[:3]) + "\n4\ta bird sings\ta bird is singing\n")
    return paths


def test_one_file(run, tiny, files):
    result = run("evaluate", tiny, files[0], "--resamples", "20")
    assert result.code == 0 and not result.err
    lines = result.out.splitlines()
    assert "Spearman" in lines[0] and "Pearson" in lines[0] and "95 % intervals" in lines[0]
    assert [line.split()[2] for line in lines[1:]] == ["cosine", "dot", "euclidean", "manhattan"]
    assert all(line.split()[:2] == [str(files[0]), "4"] and "[" in line for line in lines[1:])


def test_several_files_json_and_plot(run, tiny_bert, files, tmp_path):
    out, plot = tmp_path / "scores.json", tmp_path / "scatter.png"
    result = run("evaluate", tiny_bert, *files, "--resamples", "20", "--json", out, "--plot", plot)
    assert result.code == 0
    assert "\npooled " in result.out and "\nmean of subsets " in result.out
    record = json.loads(out.read_text())
    names = [score["name"] for score in record["scores"] if score["similarity"] == "cosine"]
    assert names == [*map(str, files), "pooled", "mean of subsets"]
    by_name = {score["name"]: score["spearman"] for score in record["scores"] if score["similarity"] == "cosine"}
    mean = sum(by_name[str(file)]["value"] for file in files) / 2
    assert by_name["mean of subsets"]["value"] == pytest.approx(mean)
    assert by_name["pooled"]["low"] <= by_name["pooled"]["high"]
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_two_models(run, tiny_bert, files, tmp_path):
    out = tmp_path / "scores.json"
    result = run("evaluate", tiny_bert, files[0], "--against", tiny_bert, "--resamples", "20", "--json", out)
    assert result.code == 0
    assert f"{tiny_bert} against {tiny_bert}, by cosine (paired bootstrap):" in result.out
    assert "difference of Spearman x 100   0.00" in result.out and "p = 1.0000" in result.out
    assert json.loads(out.read_text())["comparisons"][0]["p_value"] == 1


def test_mistakes_are_found_before_the_model_is_loaded(run, files, tmp_path):
    (tmp_path / "bad.tsv").write_text(HEAD + "5\ta\tb\nhigh\tc\td\n")
    (tmp_path / "sts.json").write_text("[]")
    for words, message in [
        ((files[0], tmp_path / "sts.json", "--json", tmp_path / "sts.json"), "sts.json: is the input file"),
        ((files[0], tmp_path / "bad.tsv"), "bad.tsv, line 3: 'score' is 'high'"),
        ((tmp_path / "none.tsv",), "none.tsv: no such file"),
        ((files[0], "--score-column", "points"), "exactly one named 'points'"),
        ((files[0], "--plot", tmp_path / "plot.svg"), "Expected a name that ends in .png"),
        ((files[0], "--json", tmp_path / "none" / "scores.json"), "there is no folder"),
        ((files[0], "--resamples", "0"), "--resamples is 0"),
    ]:
        result = run("evaluate", "no-such-model", *words)
        assert result.code == 2 and not result.out
        assert message in result.err


def test_triplets(run, tiny, tmp_path):
    file, out = tmp_path / "triplets.tsv", tmp_path / "scores.json"
    file.write_text("anchor\tpositive\tnegative\na cat\ta cat\tthe city\na dog\tthe sea\ta dog\n")
    result = run("evaluate", tiny, file, "--task", "triplets", "--json", out)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == f"{file}: 2 triplets, accuracy x 100"
    assert [line.split() for line in lines[1:]] == [
        [name, "accuracy", "50"] for name in ("cosine", "dot", "euclidean", "manhattan")
    ]
    record = json.loads(out.read_text())
    assert record["task"] == "triplets" and record["scores"][str(file)]["cosine"] == {"accuracy": 0.5}


def test_labelled_pairs(run, tiny, tmp_path):
    file, out = tmp_path / "pairs.jsonl", tmp_path / "scores.json"
    rows = [("a cat", "a cat", 1), ("a dog", "the city at night", 0), ("the sea", "the sea", 1), ("a cat", "books", 0)]
    file.write_text("".join(json.dumps({"x": a, "y": b, "same": label}) + "\n" for a, b, label in rows))
    words = ["--task", "pairs", "--text-columns", "x", "y", "--score-column", "same", "--json", out]
    result = run("evaluate", tiny, file, *words)
    assert result.code == 0, result.err
    assert result.out.startswith(
        f"{file}: 4 pairs, x 100 except thresholds\n  cosine     accuracy 100  accuracy_threshold 0."
    )
    scores = json.loads(out.read_text())["scores"][str(file)]["euclidean"]
    assert scores["f1"] == scores["average_precision"] == scores["matthews"] == 1 and scores["f1_threshold"] < 0


def test_mistakes_of_the_other_tasks(run, files, tmp_path):
    for words, message in [
        ((files[0], "--task", "triplets"), "exactly one named 'anchor/query/question'"),
        ((files[0], "--task", "binary"), "exactly one named 'label/gold_label/is_duplicate/...'"),
        ((files[0], "--task", "binary", "--score-column", "score"), "Expected 0 or 1"),
        (
            (files[0], "--task", "binary", "--plot", tmp_path / "plot.png"),
            "--against and --plot work only with --task sts",
        ),
        ((files[0], "--task", "pairs", "--against", "other"), "--against and --plot work only with --task sts"),
    ]:
        result = run("evaluate", "no-such-model", *words)
        assert result.code == 2 and not result.out
        assert message in result.err
