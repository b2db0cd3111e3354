"""One page of HTML: a cosine as a table of token pairs, and attention by layer and head. No network, no library.

    save_page("out.html", Page("a cat", "a dog", "all-MiniLM-L6-v2", explain(encoder, "a cat", "a dog"), attention))

The heat-maps are real tables: numbers with row and column headings, to be walked through with the arrow keys and to be read
aloud, each cell with a label of its own; colours (blue above 0, orange below, told apart with every kind of colour
blindness) only repeat the numbers. Texts come from strangers: they are escaped, kept from turning the text around them
(<bdi>), put in place as text and never as HTML, and the page's policy lets no other script run and loads nothing.
"""

import html
import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisbert.commands.outputs import whole_file
from minisbert.errors import InputError
from minisbert.explain.assets import BLUE, SCRIPT, STYLE

if TYPE_CHECKING:
    from minisbert.explain.attribution import Attention, Explanation

LONGEST = 64  # tokens a text: a table that can still be looked at
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HALF_PERCENT = 200  # weights are kept in steps of 1 / 200, a byte each


@dataclass(frozen=True)
class Page:
    """What is shown.

    Args:
        a, b: the texts.
        model: its name.
        explanation: of a and b.
        attention: what is shown under which name ("text A").
        cross_encoder: the name and the scores of a cross-encoder for the pair, where one was asked.
    """

    a: str
    b: str
    model: str
    explanation: "Explanation"
    attention: "dict[str, Attention]" = field(default_factory=dict)
    cross_encoder: tuple[str, list[float]] | None = None


def check_size(explanation: "Explanation") -> None:
    """Raises InputError for texts whose table nobody could read."""
    for name, tokens in (("A", explanation.tokens_a), ("B", explanation.tokens_b)):
        if len(tokens) > LONGEST:
            raise InputError(
                f"{name} has {len(tokens)} tokens. Expected at most {LONGEST} for --html; shorten the text."
            )


def save_page(out: str, page: Page) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        InputError: a text is too long for a table.
        DataError: the file cannot be written.
    """
    check_size(page.explanation)
    with whole_file(Path(out)) as temporary:
        temporary.write_text(render(page), encoding="utf-8")


def render(page: Page) -> str:
    """The page as text."""
    # The policy names the one style and the one script by their sums: whatever else got in would not run.
    policy = (
        f"default-src 'none'; style-src {_sum(STYLE)}; script-src {_sum(SCRIPT)}; base-uri 'none'; form-action 'none'"
    )
    found = page.explanation
    count_a, count_b = len(found.tokens_a), len(found.tokens_b)
    facts = [
        ("Text A", f"<bdi>{escaped(page.a)}</bdi>"),
        ("Text B", f"<bdi>{escaped(page.b)}</bdi>"),
        ("Bi-encoder", f"<bdi>{escaped(page.model)}</bdi>: cosine <b>{found.cosine:.6f}</b>, each text read by itself"),
    ]
    if page.cross_encoder is not None:
        name, scores = page.cross_encoder
        numbers = ", ".join(f"{score:.6f}" for score in scores)
        facts.append(("Cross-encoder", f"<bdi>{escaped(name)}</bdi>: score <b>{numbers}</b>, both texts read together"))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>Inside a similarity</title>",
            f"<style>{STYLE}</style></head>\n<body><main><h1>Inside a similarity</h1>",
            "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>",
            '<section aria-labelledby="pairs-title"><h2 id="pairs-title">What each pair of tokens gives</h2>',
            f'<p id="pairs-about">The cosine {found.cosine:.4f} is the sum of these {count_a} × {count_b} numbers, a row for '
            "each token of A and a column for each of B. Blue raises it, orange lowers it. A token here has seen its whole "
            "text. Tab leads into the table, arrow keys, Home and End through it.</p>",
            '<p class="readout" aria-hidden="true"></p>',
            f'<div class="scroll">{_contributions(found)}</div>',
            f"<h3>The largest</h3><ol>{_largest(found)}</ol></section>",
            _attention(page.attention),
            f"</main><script>{SCRIPT}</script></body></html>\n",
        ]
    )


def _contributions(found: "Explanation") -> str:
    values = found.contributions_QK
    largest = max(float(abs(values).max()), 1e-12)
    heads = [_head("col", token) for token in found.tokens_b]
    rows = [f'<thead><tr><td></td>{"".join(heads)}<th scope="col" class="sum">sum</th></tr></thead><tbody>']
    for i, token in enumerate(found.tokens_a):
        cells = [
            _cell(value, _shade(value / largest), f"{token} with {other}", focus=i == j == 0)
            for j, (other, value) in enumerate(zip(found.tokens_b, values[i].tolist(), strict=True))
        ]
        total = _cell(values[i].sum(), "sum", f"{token} with all of B")
        rows.append(f"<tr>{_head('row', token)}{''.join(cells)}{total}</tr>")
    totals = [
        _cell(value, "sum", f"all of A with {token}")
        for token, value in zip(found.tokens_b, values.sum(axis=0).tolist(), strict=True)
    ]
    whole = _cell(values.sum(), "sum", "the cosine")
    rows.append(f'<tr><th scope="row" class="sum">sum</th>{"".join(totals)}{whole}</tr></tbody>')
    return f'<table role="grid" aria-labelledby="pairs-title" aria-describedby="pairs-about">{"".join(rows)}</table>'


def _head(scope: str, token: str) -> str:
    return f'<th scope="{scope}"><bdi>{escaped(token)}</bdi></th>'


def _cell(value: float, look: str, label: str, *, focus: bool = False) -> str:
    index = 0 if focus else -1
    text = f"{value:.4f}".replace("-0.0000", "0.0000")
    return f'<td class="{look}" tabindex="{index}" aria-label="{escaped(label)}: {text}">{text}</td>'


def _shade(share: float) -> str:
    """The class of a share from -1 to 1: p0 to p5, or n1 to n5 below 0."""
    step = round(abs(share) * (len(BLUE) - 1))
    return f"{'n' if share < 0 and step else 'p'}{step}"


def _largest(found: "Explanation") -> str:
    lines = [
        f"<li><bdi>{escaped(found.tokens_a[one.a])}</bdi> with <bdi>{escaped(found.tokens_b[one.b])}</bdi>: "
        f"{one.contribution:.4f}</li>"
        for one in found.largest(5)
    ]
    return "".join(lines)


def _attention(maps: "dict[str, Attention]") -> str:
    if not maps:
        return ""
    data: list[dict[str, Any]] = []
    for name, (tokens, weights_YNQK) in maps.items():
        # uint8 in base64: a map of 144 heads and 64 tokens stays below a megabyte.
        steps = (weights_YNQK * HALF_PERCENT).round().astype("uint8")
        heads = [[b64encode(head.tobytes()).decode() for head in layer] for layer in steps]
        data.append({"name": name, "tokens": [_legible(token) for token in tokens], "heads": heads})
    # No < in it: nothing in a text can end the element. What is in it is put in place as text.
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<section aria-labelledby="attention-title"><h2 id="attention-title">What attention looks at</h2>'
        '<p id="attention-about">Each row is a token that looks, each column one that is looked at; the numbers are per cent '
        "and a row sums to 100 but for rounding. It tells where a layer looked, not why.</p>"
        "<noscript><p>This part is drawn by a script; the table above is not.</p></noscript>"
        '<p class="choices"><label>Of <select id="which"></select></label> <label>layer <select id="layer"></select></label> '
        '<label>head <select id="head"></select></label></p><p class="readout" aria-hidden="true"></p>'
        '<p id="shown" aria-live="polite"></p><div class="scroll"><table role="grid" id="attention" '
        'aria-labelledby="attention-title" aria-describedby="attention-about"></table></div>'
        f'<script type="application/json" id="data">{content}</script></section>'
    )


def escaped(text: str) -> str:
    """Text for HTML, in an element or an attribute.

    Example:
        >>> escaped('<b> & "x"')
        '&lt;b&gt; &amp; &quot;x&quot;'
    """
    return html.escape(_legible(text), quote=True)


def _legible(text: str) -> str:
    """Without control characters, which HTML does not allow, escaped or not, and without those that turn the line around."""
    return UNSEEN.sub("\ufffd", text)


def _sum(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
