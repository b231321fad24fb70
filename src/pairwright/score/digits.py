"""The expected score of a judge: the mean over the probabilities of the numbers that it might have written.

At the token where the labelled number stands, E = sum_k k P(k) / sum_k P(k) over the whole numbers k of the scale. It
separates responses that a judge would all call "4" (Liu et al., "G-Eval", EMNLP 2023, use the same mean).

Tokenizers differ. Where 10 is one token, P(10) is read off. Where it is "1" and "0", P("1") is shared out by the next
token's alternatives, which are known only if the judge did write a "1"; otherwise the share is unknown: up to UNKNOWN of
mass is left out (it moves E by less than UNKNOWN times the scale), more is a null with the reason `multi_token_number`. A
scale of one-digit numbers has none of this.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pairwright.score.parse import Read, find_score

LEAST_MASS = 0.5  # of the allowed numbers, below which the judge did not mean to write one
UNKNOWN = 0.01
NO_LOGPROBS, UNALIGNED, NOT_WHOLE = "no_logprobs", "logprobs_unaligned", "not_a_whole_number"
LOW_MASS, SPLIT = "low_mass", "multi_token_number"
Token = tuple[str, Mapping[str, float]]


class Scale(NamedTuple):
    """The numbers low, low + 1, ..., high, and the word that stands before them."""

    low: int
    high: int
    label: str = "Score"


def expected(tokens: Sequence[Token], scale: Scale, value: float) -> Read:
    """The expected score, in the scale's units, or null with a reason. `value` is what the reply's text was read as."""
    if not tokens:
        return Read(None, NO_LOGPROBS)
    if value != int(value):
        return Read(None, NOT_WHOLE)
    found, _ = find_score("".join(token for token, _ in tokens), low=scale.low, high=scale.high, label=scale.label)
    if found is None or found.value != value:
        return Read(None, UNALIGNED)
    at, before = _token_at(tokens, found.at)
    mass = _numbers(tokens, at, before)
    allowed = {str(number): float(number) for number in range(scale.low, scale.high + 1)}
    shared = _share_out(mass, tokens, at, [each for each in allowed if len(each) > 1])
    if shared is None:
        return Read(None, SPLIT)
    held = {text: shared.get(text, 0.0) for text in allowed}
    total = math.fsum(held.values())
    if total < LEAST_MASS:
        return Read(None, LOW_MASS)
    return Read(math.fsum(allowed[text] * p for text, p in held.items()) / total, None)


def _token_at(tokens: Sequence[Token], place: int) -> tuple[int, str]:
    """The token that holds a place of the joined text, and what stands in it before that place."""
    start = 0
    for at, (token, _) in enumerate(tokens):
        if place < start + len(token):
            return at, token[: place - start]
        start += len(token)
    raise AssertionError


def _numbers(tokens: Sequence[Token], at: int, before: str) -> dict[str, float]:
    """Probability of each digit string at a token; " 7" and "7" are one number."""
    mass: dict[str, float] = {}
    for text, logp in tokens[at][1].items():
        if before.strip() and not text.startswith(before):
            continue
        number = (text[len(before) :] if before.strip() else text).strip()
        if number.isascii() and number.isdigit():
            mass[number] = mass.get(number, 0.0) + math.exp(logp)
    return mass


def _share_out(
    mass: dict[str, float], tokens: Sequence[Token], at: int, long: Sequence[str]
) -> dict[str, float] | None:
    """Shares the mass of a digit that may begin a longer number among both; None where the share is not known."""
    if not long or any(number in mass for number in long):  # one token each
        return mass
    shared = dict(mass)
    for first in sorted({number[0] for number in long}):
        whole = mass.get(first, 0.0)
        if tokens[at][0].strip().endswith(first) and len(tokens[at][0].strip()) == 1:
            if at + 1 == len(tokens):
                return None
            goes_on = _next_digits(tokens[at + 1][1])
            shared |= {number: whole * goes_on.get(number[1:], 0.0) for number in long if number[0] == first}
            shared[first] = whole * max(0.0, 1.0 - math.fsum(goes_on.values()))
        elif whole > UNKNOWN:
            return None
        else:
            shared[first] = 0.0
    return shared


def _next_digits(alternatives: Mapping[str, float]) -> dict[str, float]:
    """Probability of each digit string right after a digit, and of "." and "," as what makes it another number."""
    found: dict[str, float] = {}
    for text, logp in alternatives.items():
        number = text.rstrip()
        if number and (number[0].isdigit() or number[0] in ".,"):
            found[number] = found.get(number, 0.0) + math.exp(logp)
    return found
