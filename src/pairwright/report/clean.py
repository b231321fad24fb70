"""What the clean stage found, as a section of the page and as a page of its own. Computes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from pairwright.report.html import (
    NONE,
    Html,
    cell,
    el,
    join,
    none,
    number,
    percent,
    standalone,
    table,
    terms,
)

LISTED = 60  # proposals that are shown with their texts
CUT_AT = 700  # characters of a text


class Flagged(TypedDict):
    """A proposal with the texts that it is about."""

    case: str
    prompt_id: str
    response_id: str
    right_id: str | None
    rater: str
    old: float
    proposed: float
    z: float | None
    status: str
    reason: str
    evidence: str
    prompt: str | None
    text: str | None
    right_text: str | None


class CleanFacts(TypedDict):
    """`cases`, `judges`, `proposals`, `safe`, `applied` as the clean stage tells them; the first flagged with texts."""

    cases: list[dict[str, Any]]
    judges: dict[str, Any]
    proposals: int
    safe: int
    applied: str
    flagged: list[Flagged]


def section(facts: CleanFacts) -> Html:
    """The inside of the section."""
    told = f"{facts['proposals']:,} proposals, {facts['safe']:,} of them safe"
    applied = "put into scores of their own name (NAME.clean)" if facts["applied"] == "safe" else "nothing was applied"
    return join(
        [
            el("p", f"{told}; {applied}. No label and no score was overwritten.", class_="lead"),
            *(_case(case) for case in facts["cases"]),
            _judges(facts["judges"]),
            _flagged(facts),
        ]
    )


def _case(case: Mapping[str, Any]) -> Html:
    name = {"comparisons": "Comparisons", "raters": "Raters of one response", "models": "Prompts × models"}[
        case["case"]
    ]
    title = f"{name} · {case['rater']}" if case.get("rater") else name
    parts = [el("h3", title), el("p", case["words"])]
    if case["options"]:
        parts += [el("p", "What would make more possible:"), el("ul", *(el("li", each) for each in case["options"]))]
    if case.get("outcome") not in (None, "done"):
        parts.append(el("p", f"{case['outcome']}: {case.get('why', '')}", class_="none"))
    if case.get("forced"):
        parts.append(
            el("p", "This was forced: nothing can be known here, and no proposal is called safe.", class_="none")
        )
    rows = [(key.replace("_", " "), _value(value)) for key, value in _shown(case)]
    return join([*parts, terms(rows)] if rows else parts)


def _shown(case: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The facts that a line can hold."""
    for key, value in {**case["facts"], **case.get("found", {})}.items():
        if isinstance(value, Mapping) and len(value) > 12:
            continue
        if not (isinstance(value, list) and value and isinstance(value[0], Mapping)):
            yield key, value
    for line in case.get("found", {}).get("rows_or_columns", [])[:10]:
        yield f"{line['kind']} {line['name']}", f"{line['flagged']} of {line['of']} cells stand out: {line['reason']}"


def _value(value: Any) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(each)}" for key, each in value.items()) or NONE
    if isinstance(value, list):
        return ", ".join(str(_value(each)) for each in value) or NONE
    return (
        number(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else NONE
        if value is None
        else value
    )


def _judges(judges: Mapping[str, Any]) -> Html:
    if not judges.get("raters"):
        return Html("")
    accuracy = judges.get("accuracy", {})
    head = [
        "rater",
        *(cell(t, "th", scope="col") for t in ("votes", "flip rate of repeats", "accuracy", "Dawid-Skene")),
    ]
    rows = [
        el(
            "tr",
            el("th", name, scope="row"),
            cell(number(told["votes"])),
            cell(_rate(told["flip_rate"])),
            cell(_accuracy(accuracy.get(name))),
            cell(percent(accuracy.get(name, {}).get("dawid_skene")) if name in accuracy else NONE),
        )
        for name, told in judges["raters"].items()
    ]
    parts = [el("h3", "How good are the raters?"), table("Raters of comparisons", head, rows)]
    if judges["agreement"]:
        titles = ["raters", *(cell(t, "th", scope="col") for t in ("pairs", "agree", "flip rate if both are alike"))]
        both = [
            el(
                "tr",
                el("th", f"{line['a']} · {line['b']}", scope="row"),
                cell(number(line["n"])),
                cell(percent(line["agreeing"] / line["n"] if line["n"] else None)),
                cell(_rate(line["flip_rate"])),
            )
            for line in judges["agreement"]
        ]
        parts.append(table("Agreement of raters on the same pairs", titles, both))
    if reason := judges.get("no_accuracy"):
        parts.append(none(str(reason)))
    return join(parts)


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return str(rate["reason"] or NONE)
    return f"{percent(rate['value'])} ({percent(rate['low'])} to {percent(rate['high'])})"


def _accuracy(told: Mapping[str, Any] | None) -> str:
    if not told or told.get("triangle") is None:
        return NONE
    return f"{percent(told['triangle'])} ± {percent(told['se'])}"


def _flagged(facts: CleanFacts) -> Html:
    shown = facts["flagged"]
    if not shown:
        return Html("")
    title = (
        "What stands out"
        if len(shown) == facts["proposals"]
        else f"What stands out: {len(shown)} of {facts['proposals']:,}"
    )
    head = ["what", *(cell(t, "th", scope="col") for t in ("is", "proposed", "z")), "status", "text"]
    return join([el("h3", title), table("Proposals, the largest first", head, map(_line, shown))])


def _line(row: Flagged) -> Html:
    what = f"{row['rater']} on {row['prompt_id']} / {row['response_id']}"
    what += f" against {row['right_id']}" if row["right_id"] else ""
    texts = [_short(text) for text in (row["prompt"], row["text"], row["right_text"]) if text]
    return el(
        "tr",
        el("th", what, scope="row"),
        cell(number(row["old"])),
        cell(number(row["proposed"])),
        cell(number(row["z"])),
        el("td", row["status"], el("br"), el("span", row["reason"], class_="faint")),
        el("td", *(el("p", text, dir="auto") for text in texts) if texts else [row["evidence"]]),
    )


def _short(text: str) -> str:
    return text if len(text) <= CUT_AT else f"{text[:CUT_AT]} ..."


def page_of(facts: CleanFacts, *, title: str, origin: Sequence[tuple[str, str]]) -> str:
    """A page of its own, for a file that was cleaned without a run."""
    sections = [("What can be known, and what does not fit", section(facts))]
    return standalone(title, [*sections, ("Where this comes from", terms(origin, class_="settings"))])
