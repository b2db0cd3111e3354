"""`minisbert explain`: what it prints and refuses, and its page in a real browser, with hostile texts in it."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.commands.cluster_map import save_map
from minisbert.explain import page as page_module
from minisbert.explain.attention import Attention, cross_encoder_attention, sentence_attention
from minisbert.explain.attribution import Explanation, explain
from minisbert.explain.follow import follow
from minisbert.explain.page import SHADES, Page, render, save_page
from minisbert.reference.encoder import feed_forward, float64, layer_norm

sys.path.insert(0, str(Path(__file__).parent))
from browser import CONTROL, Browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = (
    "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\"'><b onclick=hit=1>\u202e&amp;\x00\x85"
)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_largest_terms_are_printed(run, tiny):
    result = run("explain", "a cat", "the dog", "--model", tiny, "--top", "3")
    assert result.code == 0 and not result.err
    head, *terms = result.out.splitlines()
    found = explain(SentenceEncoder.load(tiny, compute_dtype="float32", offline=False), "a cat", "the dog")
    assert head == f"{found.cosine:.6f}  cosine, the sum over 4 x 4 pairs of tokens:"
    assert [line.split() for line in terms] == [
        [f"{one.contribution:.6f}", found.tokens_a[one.a], found.tokens_b[one.b]] for one in found.largest(3)
    ]


def test_a_cross_encoder_and_a_page(run, tiny_bert, tmp_path):
    CrossEncoder.from_encoder(tiny_bert, num_labels=2).save(tmp_path / "cross")
    out = tmp_path / "out.html"
    words = ["explain", "a cat", "the dog", "--model", tiny_bert, "--html", out, "--cross-encoder", tmp_path / "cross"]
    result = run(*words)
    assert result.code == 0 and not result.err
    scores = CrossEncoder(tmp_path / "cross").predict(("a cat", "the dog"))
    assert f"{scores[0]:.6f}, {scores[1]:.6f}  {tmp_path / 'cross'}, which reads both texts together" in result.out
    page = out.read_text()
    assert f"score <b>{scores[0]:.6f}, {scores[1]:.6f}</b>" in page
    assert "both texts, by the cross-encoder" in page


def test_mistakes(run, tiny_bert, tmp_path):
    for words, message in [
        (("a", "b", "--model", "no-such-model", "--html", tmp_path / "out.pdf"), "Expected a name that ends in .html"),
        (("a", "b", "--model", "no-such-model", "--top", "0"), "--top is 0"),
        (
            ("a", "b", "--model", "no-such-model", "--html", tmp_path / "x.html", "--follow", tmp_path / "x.html"),
            "Expected two files",
        ),
        (
            ("a", "word " * 63, "--model", tiny_bert, "--cross-encoder", "no-such"),
            "'no-such' is not the name of a model",
        ),
        (("a", "b", "--model", Path(tiny_bert).with_name("tiny-modernbert")), "the model's pooling is 'cls'"),
    ]:
        result = run("explain", *words)
        assert result.code == 2 and message in result.err and not result.out
    long = Explanation(0.5, ("a",) * 65, ("b",), np.zeros((65, 1)))
    with pytest.raises(ValueError, match=r"A has 65 tokens\. Expected at most 64"):
        save_page(str(tmp_path / "long.html"), Page("a", "b", "m", long))
    assert not list(tmp_path.iterdir())


# --- the page -------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2, definition)."""
    channels = [
        int(part * 2 if len(colour) == 4 else part, 16) / 255 for part in re.findall(r"\w" * (len(colour) // 3), colour)
    ]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_numbers_are_legible_on_every_colour():
    style = Path(page_module.__file__).with_name("page.css").read_text()
    blue, orange = (re.findall(rf"td\.{side}\d {{ background: (#\w+); color: (#\w+)", style) for side in "pn")
    for ground, ink in [*blue, *orange, ("#fff", "#111"), ("#161616", "#eee")]:
        low, high = sorted(map(luminance, (ground, ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, ink)
    assert len(blue) == len(orange) == SHADES + 1
    for colours in (blue, orange):  # brightness alone tells the size
        assert np.all(np.diff([luminance(ground) for ground, _ in colours]) < 0)


def hostile_page() -> Page:
    values = np.array([[0.25, -0.125, 0.0], [0.0625, 0.5, 0.125]])
    rng = np.random.default_rng(0)
    weights = rng.random((2, 3, 2, 2)).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    found = Explanation(0.8125, (HOSTILE, "x"), ("y", HOSTILE, "z"), values)
    return Page(HOSTILE, "b", HOSTILE, found, {"text A": Attention((HOSTILE, "</script>"), weights)}, (HOSTILE, [1.5]))


def test_texts_are_escaped():
    page = render(hostile_page())
    assert page.count("<script") == 2 and page.count("</script>") == 2  # the data and the page's own
    assert "<img" not in page and "<b onclick" not in page and "\x00" not in page
    assert "<script>window" not in page


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here: the page is not looked at in a browser")
    with Browser(CHROMIUM) as found:
        yield found


@pytest.fixture
def shown(browser, tmp_path):
    """Writes a page, opens it; nothing may be complained about or asked for, then or later."""

    def show(page: Page) -> Browser:
        save_page(str(tmp_path / "page.html"), page)
        browser.open((tmp_path / "page.html").as_uri())
        return browser

    yield show
    assert browser.complaints == []
    assert browser.asked == [(tmp_path / "page.html").as_uri()]


FOCUSED = "document.activeElement.getAttribute('aria-label')"


def test_hostile_texts_in_the_browser(shown):
    page = hostile_page()
    browser = shown(page)
    assert browser.value("typeof window.hit") == "undefined"
    assert browser.value("document.images.length") == 0
    seen = re.sub("[\u202e\x00\x85]", "\ufffd", HOSTILE)
    assert browser.value("document.querySelector('dd bdi').textContent") == seen
    assert browser.value("document.querySelectorAll('#attention th[scope=row]')[0].textContent") == seen
    assert browser.value("document.querySelectorAll('#attention th[scope=row]')[1].textContent") == "</script>"
    # The page's policy: what would get in all the same does not run.
    browser.value(
        "const s = document.createElement('script'); s.textContent = 'window.hit=1'; document.body.append(s); 0"
    )
    assert browser.value("typeof window.hit") == "undefined"
    (refused,) = [browser.complaints.pop() for _ in list(browser.complaints)]
    assert "Content Security Policy" in refused


def test_the_tables_hold_the_numbers(shown):
    encoder = SentenceEncoder.load(str(Path(__file__).parents[2] / "weights/tiny-bert"))
    cross = CrossEncoder.from_encoder(encoder)
    a, b = "a cat", "the dog sings"
    found = explain(encoder, a, b)
    maps = {"text A": sentence_attention(encoder, a), "both": cross_encoder_attention(cross, a, b)}
    browser = shown(Page(a, b, "tiny", found, maps))
    row = "r => Array.from(r.querySelectorAll('td'), c => c.textContent)"
    cells = f"Array.from(document.querySelectorAll('%s tbody tr'), {row})"
    rows = browser.value(cells % "table[aria-labelledby=pairs-title]")
    values = found.contributions_QK
    np.testing.assert_allclose(np.array(rows, float)[:-1, :-1], values, atol=5.001e-5)
    np.testing.assert_allclose(np.array(rows, float)[-1, :-1], values.sum(axis=0), atol=5.001e-5)
    assert rows[-1][-1] == f"{found.cosine:.4f}"

    def choose(which, layer, head):
        for name, value in (("which", which), ("layer", layer), ("head", head)):
            event = f"{name}.value = {value}; {name}.dispatchEvent(new Event('change'))"
            browser.value(f"{name} = document.getElementById('{name}'); {event}; 0")
        return np.array(browser.value(cells % "#attention"), float) / 100

    np.testing.assert_allclose(choose(1, 1, 3), maps["both"].weights_YNQK[1, 3], atol=0.0026)
    np.testing.assert_allclose(choose(0, 0, 4), maps["text A"].weights_YNQK[0].mean(axis=0), atol=0.0031)
    assert browser.value("document.getElementById('shown').textContent") == "text A, layer 1, head mean of all"


def test_the_keyboard_walks_and_a_screen_reader_hears(shown):
    browser = shown(hostile_page())
    browser.press("Tab")
    assert browser.value(FOCUSED).endswith(" with y: 0.2500")
    for key, modifiers, ends in [
        ("ArrowRight", 0, ": -0.1250"),
        ("ArrowDown", 0, ": 0.5000"),
        ("End", 0, "x with all of B: 0.6875"),
        ("ArrowRight", 0, "x with all of B: 0.6875"),  # the edge
        ("Home", 0, "x with y: 0.0625"),
        ("ArrowLeft", 0, "x with y: 0.0625"),
        ("End", CONTROL, "the cosine: 0.8125"),
        ("ArrowUp", 0, "x with all of B: 0.6875"),
        ("Home", CONTROL, " with y: 0.2500"),
    ]:
        browser.press(key, modifiers)
        assert browser.value(FOCUSED).endswith(ends), key
    assert browser.value("document.querySelector('.readout').textContent").endswith(" with y: 0.2500")
    assert browser.value("document.querySelectorAll('td[tabindex=\"0\"]').length") == 2, "one stop a table"
    browser.press("ArrowDown")
    order = []
    for _ in range(5):
        browser.press("Tab")
        order.append(browser.value("document.activeElement.id || document.activeElement.tagName"))
    assert order == ["BUTTON", "which", "layer", "head", "TD"]
    assert " attends to " in browser.value(FOCUSED)
    browser.press("ArrowDown")
    assert browser.value(FOCUSED).startswith("</script> attends to ")
    assert browser.heard("grid") == ["What each pair of tokens contributes", "What attention looks at"]
    assert len(browser.heard("gridcell")) >= 3 * 4 + 2 * 2
    assert {"x", "y", "z", "sum"} <= {*browser.heard("rowheader"), *browser.heard("columnheader")}
    assert "x with y: 0.0625" in browser.heard("gridcell")


def test_dark_and_light(shown):
    browser = shown(hostile_page())
    grounds = {}
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        style = "getComputedStyle(document.querySelector('%s')).%s"
        grounds[scheme] = [
            browser.value(style % ("body", "backgroundColor")),
            browser.value(style % ("td.p5", "color")),
        ]
        assert browser.value(style % ("td.p5", "backgroundColor")) == "rgb(8, 68, 136)"
    assert grounds == {
        "light": ["rgb(255, 255, 255)", "rgb(255, 255, 255)"],
        "dark": ["rgb(22, 22, 22)", "rgb(255, 255, 255)"],
    }


def test_the_gallery_and_its_links(shown, tmp_path):
    browser = shown(hostile_page())
    assert browser.value("document.querySelectorAll('#gallery button').length") == 2 * 3
    browser.value("document.querySelector('#gallery [aria-label=\"layer 2, head 3\"]').click()")
    shown_head = "document.getElementById('shown').textContent"
    assert browser.value(shown_head) == "text A, layer 2, head 3"
    assert browser.value("location.hash") == "#text-1-layer-2-head-3"
    browser.value("document.querySelector('#gallery [aria-pressed=true]').focus()")
    browser.press("ArrowUp")
    assert browser.value(shown_head) == browser.value("document.activeElement.ariaLabel").join(["text A, ", ""])
    assert browser.value("location.hash") == "#text-1-layer-1-head-3"
    for link, head in [("#text-1-layer-2-head-mean", "layer 2, head mean of all"), ("#text-9-layer-1-head-1", None)]:
        browser.value(f"location.hash = '{link}'; 0")
        browser.value("new Promise(done => setTimeout(done, 50))")
        assert head is None or browser.value(shown_head) == f"text A, {head}"
    assert browser.value(shown_head) == "text A, layer 2, head mean of all"  # a link to nothing changes nothing


def test_the_cluster_map_runs_no_script_but_its_own(browser, tmp_path):
    page = tmp_path / "map.html"
    save_map(str(page), np.arange(4.0).reshape(2, 2), np.array([0, 0]), [HOSTILE, "a cat"], [HOSTILE], title=HOSTILE)
    browser.open(page.as_uri())
    assert browser.complaints == [] and browser.asked == [page.as_uri()]
    over = "document.querySelectorAll('#map path')[1].dispatchEvent(new MouseEvent('mousemove', {bubbles: true}))"
    browser.value(f"{over}; 0")
    tip = "document.getElementById('tip')"
    assert browser.value(f"[{tip}.textContent, {tip}.style.display]") == ["0: a cat", "block"]
    assert browser.value("getComputedStyle(document.getElementById('tip')).position") == "fixed"
    # If a text were not escaped, the policy would still stop it.
    added = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'></main>"
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", added), encoding="utf-8")
    browser.open(page.as_uri())
    assert browser.value("typeof window.hit") == "undefined" and len(browser.complaints) >= 2


# --- one sentence through the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet", "tiny-roberta", "tiny-distilbert", "tiny-albert"])
def test_a_trace_is_what_the_model_computes(name):
    encoder = SentenceEncoder.load(str(Path(__file__).parents[2] / "weights" / name))
    trace = follow(encoder, "a dog sees the cat")
    output = encoder.encode("a dog sees the cat", output_value=None)
    np.testing.assert_allclose(trace.hidden_ILD[-1], output["token_embeddings"], atol=2e-6)
    np.testing.assert_allclose(trace.pooled_D, output["token_embeddings"].mean(axis=0), atol=2e-6)
    np.testing.assert_array_equal(trace.sentence_D, output["sentence_embedding"])
    params = encoder.params["encoder"]
    np.testing.assert_array_equal(trace.token_LD, np.asarray(params["token_embedding"]["embedding"])[list(trace.ids)])
    activation = getattr(encoder.model_config.encoder, "hidden_act", "gelu")
    # The twin's block, from the recorded attention output on.
    block = float64(params["blocks"]["0"] if "0" in params["blocks"] else params["blocks"][0])
    fed_LD = feed_forward(trace.attended_YLD[0].astype(np.float64), block["feed_forward"], activation)
    epsilon = getattr(encoder.model_config.encoder, "layer_norm_eps", 1e-12)
    after_LD = layer_norm(trace.attended_YLD[0] + fed_LD, block["feed_forward_norm"], epsilon)
    np.testing.assert_allclose(trace.hidden_ILD[1], after_LD, atol=2e-5)


def test_what_cannot_be_followed(monkeypatch):
    with pytest.raises(ValueError, match=r"modernbert has pre-norm blocks.*Expected a model with BERT's blocks"):
        follow(SentenceEncoder.load(str(Path(__file__).parents[2] / "weights/tiny-modernbert")), "a cat")
    monkeypatch.setattr("minisbert.explain.follow.MAX_TOKENS", 3)
    with pytest.raises(ValueError, match=r"text has 4 tokens\. Expected at most 3"):
        follow(SentenceEncoder.load(str(Path(__file__).parents[2] / "weights/tiny-mpnet")), "a cat")


def test_the_page_that_follows_one_sentence(run, tiny, browser, tmp_path):
    out = tmp_path / "follow.html"
    result = run("explain", f"a cat {HOSTILE}", "the dog", "--model", tiny, "--follow", out)
    assert result.code == 0 and not result.err
    for width in (390, 1280):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        browser.open("about:blank")  # with the same address but for the hash, nothing would be loaded
        browser.open(f"{out.as_uri()}#text-1-layer-2-head-1")
        assert browser.complaints == [] and [address.split("#")[0] for address in browser.asked] == [out.as_uri()]
        assert browser.value("document.documentElement.scrollWidth") <= width  # only tables scroll sideways
        assert browser.value("document.getElementById('shown').textContent") == "text A, layer 2, head 1"
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.value("scrollTo(0, 0)")
    for step in ("tokens", "embeddings"):
        browser.press("n")
        assert browser.value("document.activeElement.id") == step
    browser.press("p")
    assert browser.value("document.activeElement.id") == "tokens"
    cosine = result.out.split()[0]
    assert browser.value("document.querySelector('.result').textContent") == f"cos(u, v) = {cosine}"
    assert len(browser.heard("grid")) >= 7 and browser.value("typeof window.hit") == "undefined"
    assert browser.value("document.querySelectorAll('.code').length") == 11
