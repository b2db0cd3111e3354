"""Ctrl-C or SIGTERM in the middle of a command: at most one line, exit code 130 or 143, nothing half-written."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
PATIENCE = 120  # seconds until a command has come to the moment that is waited for


def interrupted(words: list[object], moment: Callable[[], bool], **variables: str) -> None:
    """Run a command, press Ctrl-C at the moment, and hold what it leaves on the screen."""
    command = [sys.executable, "-m", "minisbert", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**os.environ, **variables}, **pipes)
    deadline = time.monotonic() + PATIENCE
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, f"ended before the moment:\n{process.communicate()[1]}"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    # A shell says 130 for both: the code, and (where a library was interrupted) the death by this signal.
    assert process.returncode in (130, -signal.SIGINT), err
    assert "minisbert: interrupted\n" in err
    assert not any(word in out + err for word in ("Traceback", "Warning", "Error"))


def encoding(folder: Path) -> subprocess.Popen:
    """A command that has begun to write."""
    (folder / "source.txt").write_text("".join(f"a man eats {i} apples\n" for i in range(300_000)))
    words = ["encode", folder / "source.txt", "--model", TINY, "--out", folder / "out.npy"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", "minisbert", *map(str, words)], **pipes)
    deadline = time.monotonic() + PATIENCE
    while not any(folder.glob(".out.npy.partial-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process


def test_sigterm(tmp_path):
    process = encoding(tmp_path)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (143, "") and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["source.txt"]


def test_a_second_ctrl_c(tmp_path):
    process = encoding(tmp_path)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # as somebody without patience
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err in ("", "minisbert: interrupted\n") and not out


def test_encode(tmp_path):
    source, out = tmp_path / "source.txt", tmp_path / "out.npy"
    source.write_text("".join(f"a man eats {i} apples\n" for i in range(300_000)))
    out.write_bytes(b"of the last run")
    words = ["encode", source, "--model", TINY, "--out", out]
    interrupted(words, lambda: any(tmp_path.glob(".out.npy.partial-*")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "source.txt"]
    assert out.read_bytes() == b"of the last run"


def test_train(tmp_path):
    data, run = tmp_path / "pairs.tsv", tmp_path / "run"
    data.write_text("anchor\tpositive\n" + "".join(f"the dog {i}\ta dog {i}\n" for i in range(200)))
    metrics = run / "metrics.jsonl"
    words = ["train", TINY, run, "--data", data, "--batch-size", 2, "--checkpoint-every", 1, "--no-dropout"]
    interrupted(words, lambda: metrics.exists() and metrics.read_text().count("\n") > 2)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) < 100
    assert not (run / "final").exists()
    whole = [path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    assert whole and max(map(int, whole)) <= len(steps)


# --- a hub that sends slowly ---------------------------------------------------------------------------------------

FILES = {"config.json": b"{}", "model.safetensors": bytes(50_000)}
COMMIT = "c" * 40


class SlowHub(http.server.BaseHTTPRequestHandler):
    """One repository, org/tiny; the weights come a little at a time."""

    slow = True
    sent = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
        listing = {"id": "org/tiny", "sha": COMMIT, "siblings": [listed(*item) for item in FILES.items()]}
        body = FILES.get(name, json.dumps(listing).encode())
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        step = 500 if self.slow and name.endswith(".safetensors") else 10**6
        try:
            for at in range(start, len(body), step):
                self.wfile.write(body[at : at + step])
                type(self).sent += len(body[at : at + step])
                time.sleep(0.05 if step == 500 else 0)
        except OSError:  # the other side has gone
            pass


def listed(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"rfilename": name, "size": len(content), "blobId": blob}


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowHub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_download(hub, tmp_path, monkeypatch):
    for name in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    variables = {"HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "PIP_NO_INDEX": "1"}
    words = ["download", "org/tiny", "--cache", tmp_path]
    arriving = "models/org--tiny/.partial-main/.incoming/model.safetensors.*"
    interrupted(words, lambda: SlowHub.sent > 5_000 and any(tmp_path.glob(arriving)), **variables)
    assert not (tmp_path / "models" / "org--tiny" / "main").exists()
    monkeypatch.setattr(SlowHub, "slow", False)
    before = SlowHub.sent
    done = subprocess.run(
        [sys.executable, "-m", "minisbert", *map(str, words)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    home = Path(done.stdout.strip())
    assert {name: (home / name).read_bytes() for name in FILES} == FILES
    assert SlowHub.sent - before < 50_000 + 1_000  # what had come was kept
