"""A judge's words into a number or a verdict, strictly: what cannot be read for sure is missing, with the reason.

Numbers: one that stands after the label ("Score: 7", "**Score:** 7/10", {"score": 7}) wins over all others. Without a
label a reply is read when it holds one number, however often. x/10 and "x out of 10" are read as x when the scale ends
at 10. The sign counts. A number outside the scale is missing, never clipped.

Verdicts: after the label ("Verdict: A", {"verdict": "tie"}), in double brackets ([[A]], [[C]] for a tie), or as the whole
reply ("B."). Prose is not interpreted.

Thinking blocks are taken out first. A reply that was cut off counts when its label stands whole before the cut.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

UNPARSED, AMBIGUOUS, OUT_OF_SCALE, UNFINISHED = "judge_unparsed", "ambiguous_rating", "out_of_scale", "judge_unfinished"
REASONS = (
    UNPARSED, AMBIGUOUS, OUT_OF_SCALE, UNFINISHED, "judge_failed", "judge_incomplete", "order_inconsistent",
)  # fmt: skip
TIES = ("tie", "draw", "equal")
CUT = ("length", "max_tokens")

_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.S | re.I)
_OPEN, _CLOSED = re.compile(r"<(think|thinking|reasoning)>", re.I), re.compile(r"</(?:think|thinking|reasoning)>", re.I)
_NUMBER = r"(?<![\w.,/])[+-]?(?:[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)(?![\w%]|[.,]?[0-9])"
_OVER = r"\s*(?:/|out\s+of)\s*"
_RATING = re.compile(rf"(?P<value>{_NUMBER})(?:{_OVER}(?P<over>[0-9]+(?:\.[0-9]+)?)(?![\w%.]*[0-9]))?", re.I)
_LOOSE = re.compile(r"[0-9]")
_RANGE = re.compile(
    r"\s*(?:-|–|—|to|or|and|through)\s*[+-]?\.?[0-9]|\s+or\s+(?:more|less|higher|lower|above|below)\b", re.I
)


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
    labelled = _labelled(bare, label, high)
    if isinstance(labelled, str):
        return None, UNFINISHED if cut and labelled == UNPARSED else labelled
    if cut:  # "Score: 1" may have become "Score: 10"
        labelled = [each for each in labelled if not _ends(bare, each.at)]
        if not labelled:
            return None, UNFINISHED
    numbers = labelled or _unlabelled(bare, high)
    if isinstance(numbers, str):
        return None, numbers
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
    said = [match for pattern in _verdicts(names, label) for match in pattern.finditer(bare)]
    said = [match for match in said if not (cut and match.end() == len(bare.rstrip()))]
    winners = {_winner(match["name"], names) for match in said}
    if any(match["more"] for match in said) or len(winners) > 1:
        return Verdict(None, AMBIGUOUS)
    if not winners:
        return Verdict(None, UNFINISHED if cut else UNPARSED)
    return Verdict(winners.pop(), None)


def _bare(text: str) -> tuple[str, bool]:
    """The reply without thinking and without bold signs, every place kept; whether a thought was left open."""
    bare = _THINKING.sub(_blank, text)
    closed = [match.end() for match in _CLOSED.finditer(bare)]
    if closed:  # the template opened the thought
        bare = " " * closed[-1] + bare[closed[-1] :]
    opened = _OPEN.search(bare)
    if opened:
        return bare[: opened.start()], True
    return bare.translate({ord("*"): " ", ord("`"): " ", 0x2212: "-", 0xFF1A: ":"}), False


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def _ends(text: str, at: int) -> bool:
    """Whether the number at this place may go on where the text was cut."""
    match = _RATING.match(text, at)
    return match is not None and text[match.end() :] in ("", ".", ",", "/", "-")


def _labelled(text: str, label: str, high: float) -> "list[Found] | str":
    """The numbers after the label; a reason when one of them cannot be read; [] where the label does not stand."""
    words = r"[\s_]+".join(map(re.escape, label.split()))
    stated = re.compile(rf"(?<!\w){words}[\"'\s]*(?:\([^()\n]*\)\s*)?(?P<sign>[:=]|\bis\b|\bof\b)[\s\"'\[(]*", re.I)
    matches = list(stated.finditer(text))
    signed = [match for match in matches if match["sign"] in ":="]
    for said in (signed, [match for match in matches if match not in signed]):  # "a score of 5 is for ..." comes second
        numbers = [_number(text, match.end(), high) for match in said]
        if wrong := next((each for each in numbers if isinstance(each, str)), None):
            return wrong
        if found := [each for each in numbers if isinstance(each, Found)]:
            return found
    return UNPARSED if signed else []


def _number(text: str, at: int, high: float) -> Found | str | None:
    """The rating that begins at this place; AMBIGUOUS for a range, a thousand, a percentage or another scale."""
    match = _RATING.match(text, at)
    if match is None:
        return AMBIGUOUS if _LOOSE.match(text, at) else None
    if "," in match["value"] or match["value"].count(".") > 1 or _RANGE.match(text, match.end()):
        return AMBIGUOUS
    if match["over"] and float(match["over"]) != high:
        return AMBIGUOUS
    return Found(float(match["value"]), at)


def _unlabelled(text: str, high: float) -> "list[Found] | str":
    """Every number of the text; a reason when there is none, or one that is part of something else."""
    found: list[Found] = []
    rest = list(text)
    for match in _RATING.finditer(text):
        number = _number(text, match.start(), high)
        if not isinstance(number, Found):
            return AMBIGUOUS
        found.append(number)
        rest[match.start() : match.end()] = " " * (match.end() - match.start())
    if _PART.search("".join(rest)):
        return AMBIGUOUS
    return found or UNPARSED


_PART = re.compile(r"(?<![A-Za-z_])[0-9]")  # a number that is glued to something: 70%, 3rd, 1/2


def _verdicts(names: Sequence[str], label: str) -> list[re.Pattern[str]]:
    """Patterns of a verdict: labelled, in brackets, or alone. `more` is what makes it one of several.

    The names are read as they are written (a lower-case "a" is an article), the words for a tie in any case.
    """
    tie = "|".join(TIES)
    name = rf"(?P<name>(?:[Aa]n?\s+)?(?i:{tie})|{'|'.join(map(re.escape, names))})"
    who = r"(?:(?i:response|reply|answer|assistant|option|candidate)\s+)?"
    words = r"[\s_]+".join(map(re.escape, label.split()))
    others = "|".join(map(re.escape, names))
    more = rf"(?P<more>\s*(?:and|or|/|=|,|&|>|<)\s*(?:{others})(?!\w))"
    end = r"(?=\s*(?:$|[\n.,;:!?)\]}\"'(–—-]|(?:is|wins|was|because|since|as|over|has)\b))"
    opening = r"[\s\"'\[(]*"
    return [
        re.compile(rf"(?<!\w)(?i:{words})[\"'\s]*(?:[:=]|\bis\b){opening}{who}{name}(?!\w)(?:{more}|{end})"),
        re.compile(rf"\[\[\s*(?P<name>(?i:{tie})|{others}|C)\s*\]\](?P<more>(?!))?"),
        re.compile(rf"\A{opening}{who}{name}(?P<more>(?!))?[\s\"'\])]*[.!]?\s*\Z"),
    ]


def _winner(name: str, names: Sequence[str]) -> str:
    """[[C]] is a tie unless a response is called so."""
    return {names[0]: "first", names[1]: "second"}.get(name, "tie")
