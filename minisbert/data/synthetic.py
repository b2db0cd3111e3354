"""Synthetic sentences for speed measurements: English-like, from a seed, the same on every machine.

    make_sentences(3)       # ['...', '...', '...']

Speed depends on the lengths of the sentences and hardly on their content. The lengths follow those of captions and forum
questions: with BERT's tokenizer 13.6 tokens on average, most between 7 and 25, all from 4 to 45, including special tokens.
The commands that use them accept a file of real sentences instead (`--texts`).
"""

import math
import random

DETERMINERS = "the a one this that every another some his her my our their each".split()
ADJECTIVES = (
    "small young old red green tired happy wooden broken quiet curious expensive new open empty early heavy bright "
    "unexpected lukewarm handmade suspicious seventeen Norwegian waterproof half-finished"
).split()
NOUNS = (
    "man woman child dog cat horse guitar kitchen river train city window market bank teacher doctor engine garden "
    "letter price phone bridge question paper story goalkeeper dentist kayak accordion zucchini thermostat eggplant "
    "photographer windmill spreadsheet neighbourhood orchestra committee grandmother laptop Berlin Monday"
).split()
VERBS = (
    "sees plays cuts opens buys finds paints follows repairs carries explains watches sells forgets crosses measures "
    "photographs juggles renovates misplaces translates applauds"
).split()
PLACES = "in on near behind under without before after during across beside towards".split()
JOINTS = ", and|, but| while| because| so that|;".split("|")
ADVERBS = "slowly today again often quickly twice outside carefully reluctantly tomorrow".split()

# Words per sentence: a log-normal draw, as sentence lengths are distributed, clipped at both ends.
MEDIAN_WORDS, SPREAD, FEWEST_WORDS, MOST_WORDS = 7.8, 0.44, 2, 26


def make_sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences made from word lists.

    Example:
        >>> make_sentences(2) == make_sentences(2)
        True
    """
    rng = random.Random(seed)
    return [_sentence(rng) for _ in range(count)]


def _pick(rng: random.Random, words: list[str]) -> str:
    # Only random() is guaranteed to give the same numbers in every version of Python.
    return words[int(rng.random() * len(words))]


def _sentence(rng: random.Random) -> str:
    # A normal deviate by the Box-Muller method; 1 - u is never 0.
    normal = math.sqrt(-2 * math.log(1 - rng.random())) * math.cos(2 * math.pi * rng.random())
    wanted = min(max(round(MEDIAN_WORDS * math.exp(SPREAD * normal)), FEWEST_WORDS), MOST_WORDS)
    words = [*_noun_phrase(rng), _pick(rng, VERBS)]
    while len(words) < wanted:
        left = wanted - len(words)
        if left == 1:
            words.append(_pick(rng, ADVERBS))
        elif left >= 5 and rng.random() < 0.3:
            words[-1] += _pick(rng, JOINTS)
            words += [*_noun_phrase(rng), _pick(rng, VERBS)]
        elif words[-1] in VERBS:
            words += _noun_phrase(rng)
        else:
            words += [_pick(rng, PLACES), *_noun_phrase(rng)]
    words = words[:wanted] if wanted < 4 else words
    text = " ".join(words)
    return text[0].upper() + text[1:] + ("." if rng.random() < 0.7 else "?" if rng.random() < 0.4 else "")


def _noun_phrase(rng: random.Random) -> list[str]:
    adjectives = [_pick(rng, ADJECTIVES)] if rng.random() < 0.35 else []
    return [_pick(rng, DETERMINERS), *adjectives, _pick(rng, NOUNS)]
