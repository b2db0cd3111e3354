"""checkpoint/patterns.py: splitting rules as tokenizers have them are allowed, those that can search for ever are not."""

import pytest

from minisbert.checkpoint.patterns import Slow, check_pattern

ALLOWED = [
    r"'[st]|'re| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'ll)|[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}]+[\r\n]*|\s*[\r\n]+",
    r"[^\r\n\p{L}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    *(" {2,}", r"\s+$", "[0-9][0-9]", r"[^\]a]+b", "[]a]+", "[[:alpha:][xy]]+", r"(?<=\n)\n", r"\x{41}+", "{a}", ""),
]
REFUSED = {
    "(a+)+b": "several ways",
    "(a|a)*[^a]": "several ways",
    "(?:a{0,30}){0,30}b": "several ways",
    "(?:a?){30}b": "in a row",
    "(a|b)" * 12 + "c": "in a row",
    "a*a*b": "in a row",
    "(?:a*){2}b": "in a row",
    "(?=a*a*b)c": "in a row",
    "a?" * 40 + "a" * 40: "in a row",
    r"(a*)\1b": "reference",
    r"(?<n>a)\k<n>": "opens with",
    "(?x) a # (": "opens with",
    "(?~a)": "opens with",
    "(?:(?:a{100}){100}){100}": "10000 times",
    "x" * 6_000: "6000 characters",
    "(" * 3_000: "too early",
    "a)": "not opened",
    "[a": "too early",
}


@pytest.mark.parametrize("pattern", ALLOWED)
def test_patterns_of_tokenizers_are_allowed(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize("pattern", REFUSED)
def test_patterns_that_can_search_for_ever_are_refused(pattern):
    with pytest.raises(Slow, match=REFUSED[pattern]):
        check_pattern(pattern)
