"""Raters side by side: a section of the page, and a page of its own for scores without pairs. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from pairwright.report.facts import Agreement, Pairwise
from pairwright.report.html import Html, cell, el, join, none, number, percent, reasons, standalone, table, terms


def agreement(side: Agreement | None) -> Html:
    """How much of its scale each rater uses, and whether every two of them agree within prompts."""
    if side is None:
        return Html("")
    used = [
        el(
            "tr",
            el("th", line["rater"], scope="row"),
            *(cell(percent(line[key])) for key in ("ties", "at_low", "at_high")),
            el("td", "says the same about everything" if line["constant"] else ""),
        )
        for line in side["raters"]
    ]
    numbers = ("ties within prompts", "at the low end", "at the high end")
    parts = [
        table("What raters make of their scale", ["rater", *(cell(t, "th", scope="col") for t in numbers), ""], used)
    ]
    if side["agreement"]:
        parts += [table("Agreement of raters within prompts", _AGREEMENT_HEAD, map(_pairwise, side["agreement"]))]
        parts += [el("p", _ALPHA_NOTE, class_="note")]
    if (alpha := side["alpha"]) and len(alpha["raters"]) > 2:
        value = f"{number(alpha['value'])} (95 % of draws {number(alpha['low'])} to {number(alpha['high'])})"
        parts += [el("p", f"Krippendorff's alpha of {', '.join(alpha['raters'])} together: {value}.")]
    return join(parts)


_AGREEMENT_HEAD = [
    "raters",
    *(cell(t, "th", scope="col") for t in ("mean Spearman", "± se", "prompts", "too few", "constant", "alpha")),
]
_ALPHA_NOTE = (
    "Spearman's rank correlation in each prompt, averaged over prompts; prompts with fewer than three shared scores or "
    "with a rater that does not tell its responses apart are left out. Alpha is Krippendorff's, on the ranks within "
    "prompts: 1 is perfect agreement, 0 what chance gives."
)


def _pairwise(line: Pairwise) -> Html:
    values = (line["rho"], line["se"], line["prompts"], line["too_few"], line["constant"], line["alpha"])
    return el("tr", el("th", f"{line['a']} · {line['b']}", scope="row"), *(cell(number(value)) for value in values))


def page_of(told: Mapping[str, Any], *, title: str, origin: Sequence[tuple[str, str]]) -> str:
    """The page of `pairwright score` over responses that exist already."""
    head = [
        "rater",
        *(cell(t, "th", scope="col") for t in ("scores", "distinct", "min", "max", "missing")),
        "missing because",
    ]
    rows = [
        el(
            "tr",
            el("th", line["rater"], scope="row"),
            *(cell(number(line[key])) for key in ("n", "distinct", "low", "high")),
            cell(number(sum(line["nulls"].values()))),
            el("td", reasons(line["nulls"])),
        )
        for line in told["raters"]
    ]
    advice = el("ul", *(el("li", line) for line in told["advice"])) if told["advice"] else none("Nothing stands out.")
    return standalone(
        title,
        [
            ("What the raters say", join([advice, table("Scores of every rater", head, rows)])),
            ("Do they agree?", agreement({key: told[key] for key in ("raters", "agreement", "alpha")})),  # type: ignore[arg-type]
            ("Where this comes from", terms(origin, class_="settings")),
        ],
    )
