"""A stand-in for the hub: huggingface_hub talks to it on 127.0.0.1, and it can lie, stall and drop the line."""

import hashlib
import http.server
import json
import random
import time
from urllib.parse import unquote, urlsplit

# It reads HF_HUB_OFFLINE when it is imported: here, before a test sets that.
import huggingface_hub.constants  # noqa: F401

COMMIT = "c" * 40
CONFIG, POOLING, WEIGHTS = (
    b'{"model_type": "bert"}',
    b'{"word_embedding_dimension": 4}',
    random.Random(0).randbytes(400_000),
)
FILES = {"config.json": CONFIG, "1_Pooling/config.json": POOLING, "model.safetensors": WEIGHTS}


class HubStandIn(http.server.ThreadingHTTPServer):
    """One repository, org/tiny, by the routes huggingface_hub uses; weights are "LFS" and redirect to another host."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Routes)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = dict(FILES)  # what is listed
        self.sent: dict[str, bytes] = {}  # what is sent instead of what is listed
        self.drop_after: dict[str, list[int]] = {}  # bytes after which the line drops, one per request
        self.resumes = True
        self.delay = 0.0
        self.listings = 0
        self.tokens: set[str | None] = set()  # of the listing's requests
        self.log: list[tuple[str, str, str | None, bool]] = []  # method, file, Range, with a token?

    def fetched(self) -> list[str]:
        return [name for method, name, _, _ in self.log if method == "GET"]


class _Routes(http.server.BaseHTTPRequestHandler):
    server: HubStandIn

    def log_message(self, format, *arguments):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/org/tiny/revision/"):
            self.server.listings += 1
            self.server.tokens.add(self.headers.get("authorization"))
            return self._json(200, self._listing())
        for prefix in (f"/org/tiny/resolve/{COMMIT}/", "/elsewhere/"):
            name = path.removeprefix(prefix)
            if path.startswith(prefix) and name in self.server.files:
                return self._file(name, redirect=prefix != "/elsewhere/" and name.endswith(".safetensors"))
        return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _listing(self):
        siblings = []
        for name, data in self.server.files.items():
            row = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if name.endswith((".safetensors", ".bin")):
                row["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
            siblings.append(row)
        return {"id": "org/tiny", "sha": COMMIT, "siblings": siblings}

    def _json(self, status, content, headers=()):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **dict(headers)})

    def _file(self, name, redirect):
        if redirect:
            return self._send(302, b"", {"Location": f"http://localhost:{self.server.server_port}/elsewhere/{name}"})
        asked = self.headers.get("Range")
        self.server.log.append(("GET", name, asked, "authorization" in self.headers))
        time.sleep(self.server.delay)
        data = self.server.sent.get(name, self.server.files[name])
        partial = asked is not None and self.server.resumes
        start = int(asked.removeprefix("bytes=").rstrip("-")) if partial else 0
        limits = self.server.drop_after.get(name)
        self._send(206 if partial else 200, data[start:], {"X-Repo-Commit": COMMIT}, limits.pop(0) if limits else None)

    def _send(self, status, body, headers, limit=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "X-HF-Warning": "auth; please log in", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:limit])
        self.close_connection = True


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def use_endpoint(monkeypatch, url: str) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    close_session()  # a client of an earlier test may remember its proxies
