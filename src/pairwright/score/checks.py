"""Verifiable checks of an answer: text in, a number in [0, 1] out, 1 when the instruction is met.

Every check takes any string, in time linear in its length; its settings are keyword-only. Settings that cannot be meant
raise ConfigError, on an empty answer too, so that `rules.parse_checks` finds them before a model is called.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby, islice

from pairwright.errors import ConfigError
from pairwright.score.facts import UNSPACED, repetition, split_words

SCRIPTS = {  # how the Unicode names of a script's letters begin
    "arabic": ("ARABIC",),
    "armenian": ("ARMENIAN",),
    "bengali": ("BENGALI",),
    "cyrillic": ("CYRILLIC",),
    "devanagari": ("DEVANAGARI",),
    "ethiopic": ("ETHIOPIC",),
    "georgian": ("GEORGIAN",),
    "greek": ("GREEK",),
    "han": ("CJK", "IDEOGRAPHIC"),
    "hangul": ("HANGUL",),
    "hebrew": ("HEBREW",),
    "japanese": ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "kana": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "latin": ("LATIN",),
    "tamil": ("TAMIL",),
    "telugu": ("TELUGU",),
    "thai": ("THAI",),
}
_LETTER = f"[^\\W_{UNSPACED}]"  # a letter or digit of a script that puts spaces between words
_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟")
_CLOSERS = "\"'”’»)]*_`"
_CUT_AFTER = str.maketrans({end: f"{end} " for end in "。！？"})
_BULLET = re.compile(r"(?:[-*+•–]|[0-9]{1,3}[.)])\s")
_MAX_BRACES = 16  # places where a JSON object is looked for: each costs one pass over the answer
_MAX_N = 20
_OPENING = 200  # characters: a refusal that begins later is half a refusal
_NOT = r"(?:can't|cannot|can not|couldn't|could not|won't|will not|shouldn't|should not)(?: be able to)?"
_UNABLE = r"(?: am|'m) (?:unable|not able|not allowed|not permitted|not going|not programmed|not comfortable)(?: to)?"
_DO = r"(?:answer|assist|comply|create|disclose|discuss|engage|fulfill?|generate|give|help|offer|participate|provide"
_DO += r"|reveal|share|support|tell|write|do (?:that|this))\b"
_REFUSAL = re.compile(
    rf"\bi(?: {_NOT}|{_UNABLE}) (?:(?:directly|ethically|in good conscience|legally|really) )?{_DO}"
    r"|\bi(?: am|'m) not comfortable\b|\bi (?:don't|do not) feel comfortable\b"
    r"|\bi (?:decline|refuse) to\b|\bi (?:must|have to|will) (?:decline|refuse)\b"
    r"|\bas an? (?:ai|(?:large )?language model)\b[^.!?]{0,80}\b(?:can't|cannot|don't|do not|unable|not able)\b"
)


def _within(count: int, at_least: int | None, at_most: int | None) -> float:
    """1 for at_least <= count <= at_most; outside 1 - distance / bound, not below 0 (a bound of 0 divides by 1)."""
    if at_least is None and at_most is None:
        raise ConfigError("give at_least, at_most or both")
    low, high = at_least or 0, count if at_most is None else at_most
    if low < 0 or high < 0:
        raise ConfigError(f"at_least and at_most count things, so not below 0: at_least={at_least}, at_most={at_most}")
    if at_most is not None and low > at_most:
        raise ConfigError(f"at_least={at_least} is above at_most={at_most}: no answer can meet both")
    distance, bound = (low - count, low) if count < low else (count - high, high)
    return 1.0 if distance <= 0 else max(0.0, 1.0 - distance / max(1, bound))


def _plain(text: str, *, case: bool = False) -> str:
    """White space as single spaces, none at the ends; straight apostrophes; without upper case unless `case`."""
    plain = " ".join(text.split()).replace("’", "'")
    return plain if case else plain.casefold()


def _number_found(answer: str, terms: Sequence[str], *, case: bool) -> int:
    """How many of the terms occur in the answer as whole words."""
    plain = _plain(answer, case=case)
    found = 0
    for term in terms:
        wanted = _plain(term, case=case)
        if not wanted:
            raise ConfigError(f"{term!r} is an empty text: every answer holds it")
        before = f"(?<!{_LETTER})" if re.match(_LETTER, wanted[0]) else ""
        after = f"(?!{_LETTER})" if re.match(_LETTER, wanted[-1]) else ""
        found += re.search(before + re.escape(wanted) + after, plain) is not None
    return found


def _required(text: str, *, case: bool) -> str:
    if not (plain := _plain(text, case=case)):
        raise ConfigError(f"text={text!r} is empty: every answer would meet it")
    return plain


def words(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> float:
    """1 when the number of words is in the range, both ends included.

    A word is a stretch without white space that holds at least one letter or digit (in scripts that write no spaces
    between words, such as Chinese or Thai, every letter). Outside the range the credit falls linearly with the relative
    distance: n / at_least below, 1 - (n - at_most) / at_most above, so 0 from twice at_most on.
    """
    return _within(len(split_words(answer)), at_least, at_most)


def sentences(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> float:
    """1 when the number of sentences is in the range; outside it the credit falls as in `words`.

    A sentence is a stretch with at least one letter, up to a word that ends in . ! ? … (or their like in other scripts;
    quotes or brackets may close after it), or up to the end of the line. "1." opens a list item and is no sentence; an
    abbreviation such as "Dr." counts as an end.
    """
    n_sentences = 0
    for line in answer.translate(_CUT_AFTER).splitlines():
        begun = False
        for word in line.split():
            begun = begun or any(map(str.isalpha, word))
            if begun and word.rstrip(_CLOSERS).endswith(_ENDS):
                n_sentences, begun = n_sentences + 1, False
        n_sentences += begun
    return _within(n_sentences, at_least, at_most)


def paragraphs(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> float:
    """1 when the number of paragraphs is in the range; outside it the credit falls as in `words`.

    A paragraph is a block of lines between blank lines that holds at least one letter or digit.
    """
    blocks = groupby(answer.splitlines(), key=lambda line: bool(line.strip()))
    n_paragraphs = sum(any(any(map(str.isalnum, line)) for line in block) for filled, block in blocks if filled)
    return _within(n_paragraphs, at_least, at_most)


def bullets(answer: str, /, *, at_least: int | None = None, at_most: int | None = None) -> float:
    """1 when the number of list items is in the range; outside it the credit falls as in `words`.

    A list item is a line that begins (after white space) with - * + • – or with a number of at most three digits and
    . or ), then white space, then a text with at least one letter or digit.
    """
    lines = [line.lstrip() for line in answer.splitlines()]
    marked = [line[mark.end() :] for line in lines if (mark := _BULLET.match(line))]
    return _within(sum(any(map(str.isalnum, item)) for item in marked), at_least, at_most)


def contains(
    answer: str, /, *, all_of: tuple[str, ...] = (), any_of: tuple[str, ...] = (), case: bool = False
) -> float:
    """Share of the demands that are met: each text of `all_of` is one, and `any_of` (at least one of them) is one more.

    Texts are found as whole words: "cat" is not in "concatenate" nor in "cats", so name both forms in `any_of`. Upper
    and lower case are the same unless `case`, as are all white space and both kinds of apostrophe. In scripts that
    write no spaces between words a text is found anywhere.
    """
    if not (all_of or any_of):
        raise ConfigError("give all_of, any_of or both")
    met = _number_found(answer, all_of, case=case) + (_number_found(answer, any_of, case=case) > 0)
    return met / (len(all_of) + bool(any_of))


def excludes(answer: str, /, *, any_of: tuple[str, ...], case: bool = False) -> float:
    """Share of the texts of `any_of` that do not occur in the answer; found as whole words, as in `contains`."""
    if not any_of:
        raise ConfigError("any_of is an empty list: nothing to exclude")
    return 1.0 - _number_found(answer, any_of, case=case) / len(any_of)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _first_object(text: str) -> tuple[dict[str, object], str] | None:
    """The first JSON object of a text and what stands around it."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    for brace in islice(re.finditer(r"\{", text), _MAX_BRACES):
        try:
            value, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):  # not JSON here, or nested beyond reason
            continue
        return value, text[: brace.start()] + text[end:]
    return None


def json_keys(answer: str, /, *, keys: tuple[str, ...] = (), only: bool = False) -> float:
    """Share of the demands that the answer's JSON object meets; half of that when text stands around the object.

    The demands: there is an object, one for each of `keys` at its top level, and with `only` one more, that it has no
    other keys. Without a JSON object 0. A code fence is text around it. The object is the first that begins at one of
    the first 16 opening braces; NaN and Infinity are not JSON.
    """
    if (found := _first_object(answer)) is None:
        return 0.0
    value, around = found
    met = 1 + sum(key in value for key in keys) + (only and value.keys() <= set(keys))
    return (0.5 if around.strip() else 1.0) * met / (1 + len(keys) + only)


def starts_with(answer: str, /, *, text: str, case: bool = False) -> float:
    """1 when the answer begins with `text`, else 0; white space, apostrophes and case as in `contains`."""
    return float(_plain(answer, case=case).startswith(_required(text, case=case)))


def ends_with(answer: str, /, *, text: str, case: bool = False) -> float:
    """1 when the answer ends with `text`, else 0; white space, apostrophes and case as in `contains`."""
    return float(_plain(answer, case=case).endswith(_required(text, case=case)))


def script(answer: str, /, *, name: str) -> float:
    """Share of the letters that belong to the script `name` (a key of SCRIPTS); 0 for an answer without letters.

    A letter is a character of the Unicode categories L*; its script is read from its Unicode name.
    """
    if name not in SCRIPTS:
        raise ConfigError(f"unknown script {name!r}; known: {', '.join(SCRIPTS)}")
    n_letters = n_inside = 0
    for char, times in Counter(answer).items():
        if char.isalpha():
            full = unicodedata.name(char, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
            n_letters += times
            n_inside += times * (full.split(" ")[0] in SCRIPTS[name])
    return n_inside / n_letters if n_letters else 0.0


def no_repetition(answer: str, /, *, n: int = 4) -> float:
    """1 minus `facts.repetition`: the share of the word n-grams that repeat no earlier one; 1 for n words or fewer."""
    if not 1 <= n <= _MAX_N:
        raise ConfigError(f"n={n} is not between 1 and {_MAX_N}")
    return 1.0 - repetition(answer, n=n)


def refusal(answer: str, /) -> float:
    """1 when the answer refuses in its first 200 characters, 0.5 when it does so later, else 0.

    A refusal is a phrase of the kind "I can't help", "I am unable to provide", "I must decline" or "as an AI I cannot",
    in English; "I'm sorry" and "I can't wait" are none.
    """
    match = _REFUSAL.search(_plain(answer))
    if match is None:
        return 0.0
    return 1.0 if match.start() < _OPENING else 0.5


def not_refusal(answer: str, /) -> float:
    """1 minus `refusal`."""
    return 1.0 - refusal(answer)


def not_empty(answer: str, /) -> float:
    """1 when the answer holds a visible character, else 0: white space, control and zero-width characters are not."""
    return float(any(char.isprintable() and not char.isspace() for char in answer))


def lower_case(answer: str, /) -> float:
    """Share of the words (as in `words`) without an upper-case letter; 0 for an answer without words."""
    found = split_words(answer)
    return 1.0 - sum(any(map(str.isupper, word)) for word in found) / len(found) if found else 0.0


def upper_case(answer: str, /) -> float:
    """Share of the words (as in `words`) without a lower-case letter; 0 for an answer without words."""
    found = split_words(answer)
    return 1.0 - sum(any(map(str.islower, word)) for word in found) / len(found) if found else 0.0


_ALL: tuple[Callable[..., float], ...] = (
    *(words, sentences, paragraphs, bullets, contains, excludes, json_keys, starts_with, ends_with, script),
    *(no_repetition, refusal, not_refusal, not_empty, lower_case, upper_case),
)
CHECKS: dict[str, Callable[..., float]] = {f.__name__: f for f in _ALL}
