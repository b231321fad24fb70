"""A judge's words into a number or a verdict, strictly: what cannot be read for sure is missing, with the reason.

Numbers: after the label ("Score: 7", "**Score:** 7/10", {"score": 7}) nothing may follow on the line but a full stop and
words; a digit, a sign of arithmetic or a word right after the number makes it ambiguous ("5, no, 8", "7 percent"). Without a
label the whole reply must be the number: one amid words is nobody's rating ("Error 5"), several are ambiguous. x/10 and "x
out of 10" are read as x when the scale ends at 10. The sign counts. A number outside the scale is missing, never clipped.

Verdicts: the bare name, after the label ("Verdict: A", {"verdict": "tie"}), in double brackets ([[A]], [[C]] for a tie) at
the end of a line, or as the whole reply ("B."). Prose is not interpreted: "Verdict: A is worse" names A and means B.

A label opens a line or follows a sign: "Subscore: 3" and "Style score: 3" are no "Score". Thinking blocks are taken out
first. A reply that was cut off counts when the line of its label was ended before the cut.
"""

import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

UNPARSED, AMBIGUOUS, OUT_OF_SCALE, UNFINISHED = "judge_unparsed", "ambiguous_rating", "out_of_scale", "judge_unfinished"
REASONS = (
    UNPARSED, AMBIGUOUS, OUT_OF_SCALE, UNFINISHED, "judge_failed", "judge_incomplete", "order_inconsistent",
)  # fmt: skip
TIES = ("tie", "draw", "equal")
CUT = ("length", "max_tokens")

_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.S | re.I)
_OPEN, _CLOSED = re.compile(r"<(think|thinking|reasoning)>", re.I), re.compile(r"</(?:think|thinking|reasoning)>", re.I)
_UNDERLINES = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")  # __bold__, but not the one within final_score
_LEAD = r"(?:^[^\w\n]*|[^\w\s-][^\S\n]*)(?:(?:the|my|an?|final|overall|total)\s+)*"
_OPENING, _CLOSING = r"[\s\"'\[(]*", r"[\s\"'\])}]*"
_NUMBER = r"[+-]?(?:[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)(?![\w%]|[.,]?[0-9])"
_RATING = re.compile(
    rf"{_OPENING}(?P<value>{_NUMBER})(?:\s*(?:\(\s*)?(?:/|out\s+of)\s*(?P<over>[0-9]+(?:\.[0-9]+)?))?{_CLOSING}"
    rf"(?:\.(?=[\s\"'\])}}]|\Z){_CLOSING}(?P<rest>.*))?\Z",
    re.I,
)
_BEGINS = re.compile(rf"{_OPENING}[+-]?\.?[0-9]")
_DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")


class Read(NamedTuple):
    """A number, or null with one of REASONS."""

    value: float | None
    reason: str | None


class Verdict(NamedTuple):
    """ "first", "second" (the response shown there) or "tie", or null with one of REASONS."""

    winner: str | None
    reason: str | None


class Found(NamedTuple):
    """A number and the place where it begins in the reply."""

    value: float
    at: int


def read_score(text: str, *, low: float, high: float, label: str = "Score", finish_reason: str | None = None) -> Read:
    """The rating in a judge's reply on a scale from `low` to `high`; see the module for the rules."""
    found, reason = find_score(text, low=low, high=high, label=label, finish_reason=finish_reason)
    return Read(None if found is None else found.value, reason)


def find_score(
    text: str, *, low: float, high: float, label: str = "Score", finish_reason: str | None = None
) -> tuple[Found | None, str | None]:
    """`read_score` with the place of the number (of the first one, when it is said more than once)."""
    bare, unfinished = _bare(text)
    cut = finish_reason in CUT
    if unfinished:
        return None, UNFINISHED if cut else UNPARSED
    said = _stated(bare, label)
    if cut and not (said and all(each.whole for each in said)):  # "Score: 1" may have become "Score: 10"
        return None, UNFINISHED
    read = [_rating(each, high) for each in said] or [_alone(bare, high)]
    if AMBIGUOUS in read:
        return None, AMBIGUOUS
    numbers = [each for each in read if isinstance(each, Found)]
    if not numbers:
        return None, UNPARSED
    if len({each.value for each in numbers}) > 1:
        return None, AMBIGUOUS
    return (numbers[0], None) if low <= numbers[0].value <= high else (None, OUT_OF_SCALE)


def read_verdict(
    text: str, *, names: Sequence[str] = ("A", "B"), label: str = "Verdict", finish_reason: str | None = None
) -> Verdict:
    """Which of two responses a judge prefers; `names` are what the first and the second shown were called."""
    bare, unfinished = _bare(text)
    cut = finish_reason in CUT
    if unfinished:
        return Verdict(None, UNFINISHED if cut else UNPARSED)
    said = _stated(bare, label)
    if cut and any(not each.whole for each in said):  # "Verdict: A" may have become "Verdict: A tie"
        return Verdict(None, UNFINISHED)
    marks = list(_bracketed(names).finditer(bare))
    held = [mark for mark in marks if mark["stands"] is not None and not (cut and "\n" not in bare[mark.end() :])]
    read = [_named(each.text, names) for each in said]
    if not (said or marks or cut):
        read = [_named(bare, names)]
    if unsure := [each for each in read if each in (AMBIGUOUS, UNPARSED)]:
        return Verdict(None, unsure[0])
    winners = {each for each in read if each} | {_winner(mark["name"], names) for mark in held}
    if len(winners | {_winner(mark["name"], names) for mark in marks}) > 1:
        return Verdict(None, AMBIGUOUS)
    if not winners:
        return Verdict(None, UNFINISHED if cut else UNPARSED)
    return Verdict(winners.pop(), None)


def _bare(text: str) -> tuple[str, bool]:
    """The reply without thinking and without signs of emphasis, every place kept; whether a thought was left open."""
    bare = _THINKING.sub(_blank, text)
    closed = [match.end() for match in _CLOSED.finditer(bare)]
    if closed:  # the template opened the thought
        bare = " " * closed[-1] + bare[closed[-1] :]
    opened = _OPEN.search(bare)
    if opened:
        return bare[: opened.start()], True
    plain = bare.translate({ord("*"): " ", ord("`"): " ", 0x2212: "-", 0xFF1A: ":"})
    return _UNDERLINES.sub(_blank, plain), False


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


class _Said(NamedTuple):
    """What stands after a label up to the next one or the end of the line; its place; whether the line was ended."""

    text: str
    at: int
    whole: bool


def _stated(text: str, label: str) -> list[_Said]:
    """Everything that is said under the label; what "is" or "of" leads to counts only where no sign does."""
    words = r"[\s_]+".join(map(re.escape, label.split()))
    held, rest = _in_object(text, words)
    stated = re.compile(
        rf"{_LEAD}{words}[\"'\s]*(?:\([^()\n]*\)\s*)?(?P<sign>[:=]|\bis\b|\bof\b){_OPENING}", re.I | re.M
    )
    matches = list(stated.finditer(rest))
    signed = [match for match in matches if match["sign"] in ":="]
    said, last = signed or ([] if held else matches), rest.rfind("\n")
    for match, after in zip_longest(said, said[1:]):
        end = after.start() if after else len(rest)
        held.append(_Said(rest[match.end() : end].partition("\n")[0], match.end(), last >= match.end()))
    return held


def _in_object(text: str, words: str) -> tuple[list[_Said], str]:
    """The values of a JSON object in the text under keys that are the label, and the text without the object."""
    begin, end = text.find("{"), text.rfind("}") + 1
    whole: dict[str, Any] = {"object_pairs_hook": tuple, "parse_int": str, "parse_float": str, "parse_constant": str}
    try:
        pairs = json.loads(text[begin:end], strict=False, **whole)
    except (ValueError, RecursionError):
        return [], text
    place = re.compile(rf"\"{words}\"\s*:\s*\"?", re.I)
    held = []
    for key, value in pairs:
        if re.fullmatch(words, key.strip(), re.I):
            said = value if isinstance(value, str) else ""
            at = (match.end() for match in place.finditer(text, begin, end) if text.startswith(said, match.end()))
            held.append(_Said(said, next(at, begin), whole=True))
    return held, text[:begin] + " " * (end - begin) + text[end:]


def _rating(said: _Said, high: float) -> Found | str:
    """The rating that a statement is; UNPARSED where it begins with no number, AMBIGUOUS where more follows on one."""
    match = _RATING.match(said.text)
    if match is None:
        return AMBIGUOUS if _BEGINS.match(said.text) else UNPARSED
    value, over = match["value"], match["over"]
    if "," in value or value.count(".") > 1 or (over and float(over) != high) or _DIGITS.search(match["rest"] or ""):
        return AMBIGUOUS
    return Found(float(value), said.at + match.start("value"))


def _alone(text: str, high: float) -> Found | str:
    """The rating that the whole reply is; AMBIGUOUS for several numbers, and for one of another form."""
    match = _RATING.match(text)
    if match is not None and not match["rest"]:
        return _rating(_Said(text, 0, whole=True), high)
    numbers = len(_DIGITS.findall(text))
    wordless = not any(sign.isalpha() for sign in text)
    return AMBIGUOUS if numbers > 1 or (numbers and wordless) else UNPARSED


def _named(text: str, names: Sequence[str]) -> str | None:
    """first, second or tie where the text is a bare name; UNPARSED where it goes on after one, AMBIGUOUS where with the
    other; None where it begins with no name.

    The names are read as they are written (a lower-case "a" is an article), the words for a tie in any case.
    """
    either = "|".join(map(re.escape, names))
    who = r"(?:(?i:response|reply|answer|assistant|option|candidate)\s+)?"
    name = rf"(?P<name>(?:[Aa]n?\s+)?(?i:{'|'.join(TIES)})(?!\w)|(?:{either})(?!\w))"
    match = re.match(rf"{_OPENING}{who}{name}", text)
    if match is None:
        return None
    if re.match(rf"{_CLOSING}(?:\.{_CLOSING})?\Z", text[match.end() :]):
        return _winner(match["name"], names)
    joined = re.match(rf"{_CLOSING}(?:and|or|/|=|,|&|>|<)\s*(?:{either})(?!\w)", text[match.end() :])
    return AMBIGUOUS if joined else UNPARSED


def _bracketed(names: Sequence[str]) -> re.Pattern[str]:
    """Names in double brackets; `stands` is there where one opens a line or a sentence and ends the line."""
    name = rf"\[\[\s*(?P<name>(?i:{'|'.join(TIES)})|{'|'.join(map(re.escape, names))}|C)\s*\]\]"
    lead = r"(?:^[^\w\n]*?|[.!?:;][^\S\n]+)"
    return re.compile(rf"(?P<stands>{lead}(?={name.replace('?P<name>', '?:')}[^\S\n]*\.?[^\S\n]*$))?{name}", re.M)


def _winner(name: str, names: Sequence[str]) -> str:
    """[[C]] is a tie unless a response is called so."""
    return {names[0]: "first", names[1]: "second"}.get(name, "tie")
