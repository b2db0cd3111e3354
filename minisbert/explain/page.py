"""One HTML page per explanation: a cosine as a table of token pairs, and attention by layer and head.

    save_page("out.html", Page("a cat", "a dog", "all-MiniLM-L6-v2", explain(encoder, "a cat", "a dog"), attention))

The page needs no network and no library; its markup, style and script are page.html, attention.html, page.css and page.js.
The heat-maps are real tables: arrow keys move inside them, and every cell has a label for screen readers. The colours (blue
above 0, orange below, distinguishable with every kind of colour blindness) only repeat the numbers. Texts are untrusted: they
are escaped, isolated with <bdi>, and inserted as text, never as HTML; the page's policy runs no other script and loads nothing.
"""

import html
import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from minisbert.atomic_write import whole_file
from minisbert.errors import InputError

if TYPE_CHECKING:
    from minisbert.explain.attention import Attention
    from minisbert.explain.attribution import Explanation

MAX_TOKENS = 64  # per text: larger tables are not legible
SHADES = 5  # above 0 and below: the classes p0 to p5 and n1 to n5 of page.css
# HTML forbids control characters, escaped or not; the others reverse the line around them.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
WEIGHT_STEPS = 200  # attention weights are stored in steps of 1 / 200, one byte each; page.js has the same number


@dataclass(frozen=True)
class Page:
    """The content of a page.

    Args:
        attention: attention maps by the name to show ("text A").
        cross_encoder: the name of a cross-encoder and its scores for the pair.
    """

    a: str
    b: str
    model: str
    explanation: "Explanation"
    attention: "dict[str, Attention]" = field(default_factory=dict)
    cross_encoder: tuple[str, list[float]] | None = None


def check_size(explanation: "Explanation") -> None:
    """Raises InputError for texts whose table would be too large to read."""
    for name, tokens in (("A", explanation.tokens_a), ("B", explanation.tokens_b)):
        if len(tokens) > MAX_TOKENS:
            raise InputError(
                f"{name} has {len(tokens)} tokens. Expected at most {MAX_TOKENS} for --html; shorten the text."
            )


def save_page(out: str, page: Page) -> None:
    """Write the page; the file appears whole or not at all. Raises InputError: a text is too long for a table."""
    check_size(page.explanation)
    write_page(out, render(page))


def render(page: Page) -> str:
    """The page as HTML."""
    found = page.explanation
    facts = {
        "Text A": bdi(page.a),
        "Text B": bdi(page.b),
        "Bi-encoder": f"{bdi(page.model)}: cosine <b>{found.cosine:.6f}</b>, each text read on its own",
    }
    if page.cross_encoder is not None:
        name, scores = page.cross_encoder
        numbers = ", ".join(f"{score:.6f}" for score in scores)
        facts["Cross-encoder"] = f"{bdi(name)}: score <b>{numbers}</b>, both texts read together"
    largest = [
        f"<li>{bdi(found.tokens_a[term.a])} with {bdi(found.tokens_b[term.b])}: {term.contribution:.4f}</li>"
        for term in found.largest(5)
    ]
    return filled(
        "page.html",
        facts="".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items()),
        cosine=f"{found.cosine:.4f}",
        count_a=len(found.tokens_a),
        count_b=len(found.tokens_b),
        contributions=_contributions(found),
        largest="".join(largest),
        attention=attention_part(page.attention) if page.attention else "",
    )


def filled(template: str, **values: Any) -> str:
    """A template next to this file, with its style, its script, and the policy that allows only these."""
    style, script = asset("page.css"), asset("page.js")
    return Template(asset(template)).substitute(values, policy=policy(style, script), style=style, script=script)


def write_page(out: str, page: str) -> None:
    """Write an HTML file; it appears whole or not at all."""
    with whole_file(Path(out)) as temporary:
        temporary.write_text(page, encoding="utf-8")


def policy(style: str, script: str) -> str:
    """The page's policy: the one style and the one script by their digests. Nothing else runs, and nothing is loaded."""
    sources = f"style-src {_digest(style)}; script-src {_digest(script)}"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def asset(name: str) -> str:
    """The content of a file next to this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _contributions(found: "Explanation") -> str:
    values = found.contributions_QK
    largest = max(float(abs(values).max()), 1e-12)
    heads = [f'<th scope="col">{bdi(token)}</th>' for token in found.tokens_b]
    rows = [f'<thead><tr><td></td>{"".join(heads)}<th scope="col" class="sum">sum</th></tr></thead><tbody>']
    for i, token in enumerate(found.tokens_a):
        cells = [
            number_cell(value, shade(value / largest), f"{token} with {other}", focus=i == j == 0)
            for j, (other, value) in enumerate(zip(found.tokens_b, values[i].tolist(), strict=True))
        ]
        total = number_cell(values[i].sum(), "sum", f"{token} with all of B")
        rows.append(f'<tr><th scope="row">{bdi(token)}</th>{"".join(cells)}{total}</tr>')
    totals = [
        number_cell(value, "sum", f"all of A with {token}")
        for token, value in zip(found.tokens_b, values.sum(axis=0).tolist(), strict=True)
    ]
    cosine = number_cell(values.sum(), "sum", "the cosine")
    rows.append(f'<tr><th scope="row" class="sum">sum</th>{"".join(totals)}{cosine}</tr></tbody>')
    return f'<table role="grid" aria-labelledby="pairs-title" aria-describedby="pairs-about">{"".join(rows)}</table>'


def number_cell(value: float, style: str, label: str, *, focus: bool = False) -> str:
    """A cell of a table with a number, its class, and its label for screen readers."""
    text = f"{value:.4f}".replace("-0.0000", "0.0000")
    return f'<td class="{style}" tabindex="{0 if focus else -1}" aria-label="{escaped(label)}: {text}">{text}</td>'


def shade(share: float) -> str:
    """The class of a share from -1 to 1."""
    step = round(abs(share) * SHADES)
    return f"{'n' if share < 0 and step else 'p'}{step}"


def attention_part(maps: "dict[str, Attention]") -> str:
    """The part of a page that shows attention maps: their JSON, which page.js draws."""
    data = []
    for name, (tokens, weights_YNQK) in maps.items():
        # uint8 in base64: a map of 144 heads and 64 tokens is under a megabyte.
        steps = (weights_YNQK * WEIGHT_STEPS).round().astype("uint8")
        heads = [[b64encode(head.tobytes()).decode() for head in layer] for layer in steps]
        data.append({"name": name, "tokens": [UNPRINTABLE.sub("\ufffd", token) for token in tokens], "heads": heads})
    # Without any "<", no text can end the script element.
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template(asset("attention.html")).substitute(data=content)


def bdi(text: str) -> str:
    """A text, escaped and isolated from what is around it."""
    return f"<bdi>{escaped(text)}</bdi>"


def escaped(text: str) -> str:
    """The text for HTML: markup is escaped, and control characters are replaced, which HTML forbids even escaped."""
    return html.escape(UNPRINTABLE.sub("\ufffd", text), quote=True)


def _digest(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
