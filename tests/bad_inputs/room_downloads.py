"""Invalid names, damaged caches and a hub that lies. A local server answers for the hub; no pip is started."""

import gzip
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery import Case, Gives, Refused, Work, refused

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_stand_in import CONFIG, FILES, WEIGHTS, HubStandIn, use_endpoint

Act = Callable[[Any, Work], Any]
BIG = b"x" * 1_000_000


def asked(name: Any, **options: Any) -> Act:
    """`locate` without any network."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.download.locate import locate

        options.setdefault("offline", True)
        return locate(name, show_progress=False, **options)

    return act


def from_hub(lie: Callable[[HubStandIn], Any], name: str = "org/tiny", **options: Any) -> Act:
    """Fetch org/tiny from a hub that lies."""

    def act(lib: Any, work: Work) -> Any:
        from huggingface_hub import constants

        from minisbert.download import hub
        from minisbert.download import locate as download

        stand_in = HubStandIn()
        thread = threading.Thread(target=stand_in.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            with pytest.MonkeyPatch.context() as patch:
                use_endpoint(patch, stand_in.url)
                patch.setattr(constants, "HF_HUB_OFFLINE", False)
                patch.setattr(constants, "HF_HUB_CACHE", str(work.folder / "huggingface"))
                patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
                patch.setattr(download, "_REMOTE_SOURCES", (("the hub", hub.fetch),))
                patch.setattr(hub, "CONNECT_SECONDS", 2.0)
                patch.setattr(hub, "READ_SECONDS", 2.0)
                patch.setattr(hub, "LISTING_SECONDS", 3.0)
                for variable in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE"):
                    patch.delenv(variable, raising=False)
                patch.setenv("NO_PROXY", "127.0.0.1,localhost")
                lie(stand_in)
                found = download.locate(name, show_progress=False, **options)
                return sorted(path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file())
        finally:
            stand_in.shutdown()
            stand_in.server_close()
            # Nothing may be written outside the cache, whatever the hub's list says.
            assert not (work.folder.parent / "escaped.json").exists(), "a file was written outside the cache"

    return act


def listed(**files: bytes | None) -> Callable[[HubStandIn], Any]:
    """Another list of files; None takes one away. A dot in a name is written as __, a slash as ___."""

    def lie(server: HubStandIn) -> None:
        for key, content in files.items():
            name = key.replace("___", "/").replace("__", ".")
            if content is None:
                server.files.pop(name)
            else:
                server.files[name] = content

    return lie


def named(*names: str) -> Callable[[HubStandIn], Any]:
    """More files by their very names."""
    return lambda server: server.files.update(dict.fromkeys(names, b"{}"))


def sent(name: str, content: bytes) -> Callable[[HubStandIn], Any]:
    """Other bytes than the listed ones."""
    return lambda server: server.sent.update({name: content})


def dropped(*limits: int) -> Callable[[HubStandIn], Any]:
    """The line drops after so many bytes of the weights, once a request."""
    return lambda server: server.drop_after.update({"model.safetensors": list(limits)})


def cached(manifest: bytes | dict[str, Any], offline: bool = True) -> Act:
    """A cache that holds something under org/tiny already."""

    def act(lib: Any, work: Work) -> Any:
        home = work.folder / "cache" / "models" / "org--tiny" / "main"
        home.mkdir(parents=True)
        for name, content in FILES.items():
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_bytes(content)
        data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        (home / "minisbert_source.json").write_bytes(data)
        return asked("org/tiny", offline=offline)(lib, work)

    return act


def sizes(**changes: Any) -> dict[str, Any]:
    """A manifest as it should be, with other sizes."""
    return {"files": {name: {"size": len(content)} for name, content in FILES.items()} | changes}


NAMES: list[tuple[Any, Refused]] = [
    (None, refused("InputError", "None")),
    (3, refused("InputError", "3")),
    (True, refused("InputError", "True")),
    (b"tiny", refused("InputError", "tiny")),
    (["tiny"], refused("InputError", "tiny")),
    ("", refused("InputError", "name")),
    (" \t", refused("InputError", "name")),
    ("no-such-model", refused("InputError", "no-such-model", "all-mpnet-base-v2")),
    ("all-MiniLM-L6-v3", refused("InputError", "all-MiniLM-L6-v3")),
    ("org/name", refused("DownloadError", "org/name", "offline")),
    ("all-mpnet-base-v2", refused("DownloadError", "all-mpnet-base-v2", "offline")),
    ("org/na me", refused("InputError", "org/na me")),
    ("org/..", refused("InputError", "org/..")),
    ("../org", refused("ModelFolderError", "../org")),
    ("org/name/more", refused("ModelFolderError", "org/name/more")),
    ("org--name", refused("InputError", "org--name")),
    ("org/na--me", refused("InputError", "org/na--me")),
    ("org\\name", refused("ModelFolderError", "org")),
    ("-org/name", refused("InputError", "-org/name")),
    (".hidden", refused("ModelFolderError", ".hidden")),
    ("/etc/passwd", refused("ModelFolderError", "/etc/passwd", "file")),
    ("/nowhere", refused("ModelFolderError", "/nowhere")),
    ("~nobody-here/x", refused("InputError", "nobody-here")),
    ("org/na\nme", refused("InputError", "me")),
    ("a\0b", refused("InputError", "a")),
    ("x" * 5000, refused("InputError", "xxx")),
    ("\ud800", refused("InputError", "ud800")),
    ("орг/имя", refused("InputError", "орг")),
    ("org/name;touch canary", refused("InputError", "touch")),
    ("$(touch canary)", refused("InputError", "touch")),
    ("--index-url=http://example.invalid", refused("MinisbertError", "example.invalid")),
    ("https://huggingface.co/org/name", refused("ModelFolderError", "org/name")),
    (Path("nowhere"), refused("ModelFolderError", "nowhere")),
]
REVISIONS = ["", "..", "../x", "a/b", "-x", "a b", "x\0", 3, True, ["main"], b"main", "x;y"]
CACHES: list[tuple[Any, tuple[str, ...]]] = [
    (3, ("cache",)),
    (b"x", ("cache",)),
    (["x"], ("cache",)),
    ("a\0b", ("cache",)),
]
LIES: list[tuple[str, Act, Refused]] = [
    ("a model that is not there", from_hub(lambda server: None, "org/other"), refused("DownloadError", "org/other")),
    ("no files", from_hub(lambda server: server.files.clear()), refused("DownloadError", "org/tiny")),
    ("no weights", from_hub(listed(model__safetensors=None)), refused("DownloadError", "model.safetensors")),
    ("no settings", from_hub(listed(config__json=None)), refused("DownloadError", "config.json")),
    (
        "a pickle for weights",
        from_hub(listed(model__safetensors=None, pytorch_model__bin=BIG)),
        refused("DownloadError", "pytorch_model.bin", "pickle"),
    ),
    (
        "other bytes for the weights",
        from_hub(sent("model.safetensors", bytes(len(WEIGHTS)))),
        refused("DownloadError", "model.safetensors", "sha256"),
    ),
    (
        "one byte changed",
        from_hub(sent("model.safetensors", WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))),
        refused("DownloadError", "model.safetensors"),
    ),
    (
        "other bytes for config.json",
        from_hub(sent("config.json", b"#" * len(CONFIG))),
        refused("DownloadError", "config.json", "sha1"),
    ),
    (
        "fewer bytes than listed",
        from_hub(sent("model.safetensors", WEIGHTS[:1000])),
        refused("DownloadError", "model.safetensors"),
    ),
    (
        "more bytes than listed",
        from_hub(sent("model.safetensors", WEIGHTS + BIG)),
        refused("DownloadError", "model.safetensors"),
    ),
    (
        "a gz for the weights",
        from_hub(sent("model.safetensors", gzip.compress(WEIGHTS))),
        refused("DownloadError", "model.safetensors"),
    ),
    ("a connection that always drops immediately", from_hub(dropped(*[0] * 50)), refused("DownloadError", "org/tiny")),
]
GOOD = sorted(["1_Pooling/config.json", "config.json", "minisbert_source.json", "model.safetensors"])
WHOLE = Gives("the model's files, and no others", lambda lib, result: result == GOOD)
FINE: list[tuple[str, Act, Gives]] = [
    ("what is listed", from_hub(lambda server: None), WHOLE),
    (
        "paths out of the folder in the list",
        from_hub(
            named(
                "../escaped.json",
                "../../escaped.json",
                "/escaped.json",
                "1_Pooling/../../escaped.json",
                "..\\escaped.json",
            )
        ),
        WHOLE,
    ),
    (
        "code in the list",
        from_hub(
            named("evil.py", "modeling_evil.py", "setup.py", "1_Pooling/evil.py", "__init__.py", ".bashrc", "evil.so")
        ),
        WHOLE,
    ),
    (
        "pickles next to the weights",
        from_hub(named("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl", "model.onnx")),
        WHOLE,
    ),
    ("a manifest in the list", from_hub(named("minisbert_source.json")), WHOLE),
    (
        "deep folders in the list",
        from_hub(named("a/b/c/config.json", "1_Pooling/deep/config.json", "openvino/model.safetensors")),
        WHOLE,
    ),
    ("a connection that drops three times", from_hub(dropped(100_000, 100_000, 100_000)), WHOLE),
]
STATES: list[tuple[str, Act, Refused]] = [
    ("a manifest that is cut", cached(b'{"files": {'), refused("DownloadError", "minisbert_source.json")),
    ("a manifest of zeros", cached(bytes(100)), refused("DownloadError", "minisbert_source.json")),
    ("a manifest that is a list", cached(b"[1]"), refused("DownloadError", "minisbert_source.json")),
    ("a manifest nested deeply", cached(b"[" * 200_000), refused("DownloadError", "minisbert_source.json")),
    ("a manifest without files", cached({}), refused("DownloadError", "minisbert_source.json")),
    (
        "a manifest of a larger file",
        cached(sizes(**{"config.json": {"size": 10**9}})),
        refused("DownloadError", "config.json", "1000000000"),
    ),
    (
        "a manifest of a size that is text",
        cached(sizes(**{"config.json": {"size": "x"}})),
        refused("DownloadError", "minisbert_source.json"),
    ),
    (
        "a manifest of a file that is not there",
        cached(sizes(**{"model-2.safetensors": {"size": 5}})),
        refused("DownloadError", "model-2.safetensors"),
    ),
]


def unwritable(lib: Any, work: Work) -> Any:
    """A cache whose place is a file."""
    work.file("cache", "x")
    return asked("org/name", offline=True)(lib, work)


CASES = [
    *[Case("downloads", f"a name {name!r:.40}", asked(name), expect) for name, expect in NAMES],
    *[
        Case("downloads", f"a revision {value!r}", asked("org/name", revision=value), refused("InputError", "revision"))
        for value in REVISIONS
    ],
    *[
        Case("downloads", f"a cache {value!r}", asked("org/name", cache=value), refused("InputError", *words))
        for value, words in CACHES
    ],
    *[
        Case("downloads", f"offline {value!r}", asked("org/name", offline=value), refused("InputError", "offline"))
        for value in ("no", 3, [])
    ],
    *[Case("downloads", f"a hub with {name}", act, expect) for name, act, expect in LIES],
    *[Case("downloads", f"fine: a hub with {name}", act, expect) for name, act, expect in FINE],
    *[Case("downloads", f"a cache with {name}", act, expect) for name, act, expect in STATES],
    Case("downloads", "a file in the place of the cache", unwritable, refused("DownloadError", "cache")),
]
