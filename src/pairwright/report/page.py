"""Facts of a run -> the text of one HTML page that opens from disk and asks nothing of any server.

Model text never becomes markup: here every string goes through `el`, which escapes it; to the script of the page the
facts come as JSON without <, > and &, and it writes them as text nodes. The content security policy names the one style
and the one script by hash, so that nothing else could run or load even if a string slipped through.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from string import Template
from typing import Any

from pairwright.errors import DataError
from pairwright.report.clean import CleanFacts, section
from pairwright.report.facts import Facts, Histogram, Pairs, Rater, Rules, Stage
from pairwright.report.html import NONE, Html, el
from pairwright.report.html import cell as _n
from pairwright.report.html import escape as _escape
from pairwright.report.html import join as _join
from pairwright.report.html import none as _none
from pairwright.report.html import number as _number
from pairwright.report.html import reasons as _reasons
from pairwright.report.html import share as _share
from pairwright.report.html import signed as _signed
from pairwright.report.html import source_hash as _source_hash
from pairwright.report.html import table as _table
from pairwright.report.html import template as _template
from pairwright.report.html import terms as _terms
from pairwright.report.raters import agreement
from pairwright.report.select import section as selected

MAX_Z = 3.5  # half the width of the z axis


def page(facts: Facts) -> str:
    """The whole page. Raises DataError when a number of the facts is nan or inf."""
    css, js = _template("page.css"), _template("page.js")
    policy = (
        f"default-src 'none'; script-src {_source_hash(js)}; style-src {_source_hash(css)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(_template("page.html")).substitute(
        policy=policy,
        css=css,
        js=js,
        facts=_embedded(facts),
        title=_escape(facts["title"]),
        summary=_escape(facts["summary"]),
        key=_key(facts),
        stages=_stages(facts["stages"]),
        raters=_join([_raters(facts["raters"]), agreement(facts["agreement"])]),
        clean=_clean(facts["clean"]),
        clean_link=el("a", "Clean", href="#clean") if facts["clean"] else "",
        select=_select(facts["select"]),
        select_link=el("a", "Selection", href="#select") if facts["select"] else "",
        rules=_rules(facts["rules"]),
        pairs=_pairs(facts["pairs"]),
        prompts=_prompts(facts),
        origin=_origin(facts),
    )


def _clean(told: CleanFacts | None) -> Html:
    if told is None:
        return Html("")
    title = el("h2", "What can be known, and what does not fit", id="clean-h")
    return el("section", title, section(told), id="clean", aria_labelledby="clean-h")


def _select(told: Mapping[str, Any] | None) -> Html:
    if told is None:
        return Html("")
    title = el("h2", "Which pairs stay", id="select-h")
    return el("section", title, selected(told, told["ends"]), id="select", aria_labelledby="select-h")


def _embedded(facts: Facts) -> Html:
    """JSON in plain ASCII without <, > and &: it can neither end its script element nor hold a line separator."""
    try:
        text = json.dumps(facts, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise DataError(f"the facts of the report hold nan or inf: give None for a missing number ({error})") from error
    return Html(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


# Numbers and small parts


def _svg(what: str, details: str, height: int, *inside: object, class_: str) -> Html:
    """A drawing in percentages of its box, so that its text keeps its size at every width."""
    told = (el("title", what), el("desc", details))
    return el(
        "svg", *told, *inside, class_=class_, width="100%", height=height, role="img", aria_label=f"{what}. {details}"
    )


# Sections


def _key(facts: Facts) -> Html:
    rules = facts["rules"]
    return _terms(
        [
            ("pairs", _number(facts["pairs"]["n"])),
            ("prompts", _number(facts["prompts_total"])),
            ("chosen", rules["chosen"]),
            ("rejected", rules["rejected"]),
            ("run", facts["run"]),
            ("written", facts["created"]),
            ("Pairwright", facts["version"]),
        ],
        class_="key",
    )


def _stages(stages: list[Stage]) -> Html:
    if not stages:
        return _none("No stage has run.")
    head = [
        "stage",
        "rows",
        *(_n(text, "th", scope="col") for text in ("in", "= kept", "+ dropped")),
        el("th", "share kept", scope="col"),
        "dropped because",
        "set aside because",
        _n("seconds", "th", scope="col"),
        "note",
    ]
    return _table("Counts of every stage", head, map(_stage, stages))


def _stage(stage: Stage) -> Html:
    dropped = sum(stage["dropped"].values())
    lost = stage["rows_in"] - stage["kept"] - dropped
    wrong = el("p", f"Does not add up: {_number(lost)} unaccounted for", class_="wrong") if lost else ""
    share = stage["kept"] / stage["rows_in"] if stage["rows_in"] else 0
    bar = el("svg", *_bar([("kept", share), ("rest", 1 - share)]), width=72, height=9, aria_hidden="true")
    return el(
        "tr",
        el("th", stage["stage"], scope="row"),
        el("td", stage["unit"]),
        *(_n(_number(count)) for count in (stage["rows_in"], stage["kept"], dropped)),
        el("td", bar, f" {100 * share:.1f} %" if stage["rows_in"] else f" {NONE}", class_="nowrap"),
        el("td", _reasons(stage["dropped"]), wrong),
        el("td", _reasons(stage["set_aside"])),
        _n(_number(stage["seconds"])),
        el("td", stage["note"], class_="note"),
    )


def _bar(shares: Iterable[tuple[str, float]]) -> list[Html]:
    """Segments side by side, each with its class."""
    drawn, left = [], 0.0
    for class_, share in shares:
        drawn.append(el("rect", class_=class_, x=f"{100 * left:.3f}%", width=f"{100 * share:.3f}%", height="100%"))
        left += share
    return drawn


def _raters(raters: list[Rater]) -> Html:
    if not raters:
        return _none("No rater has scored anything.")
    numbers = ("scores", "distinct", "min", "mean", "max", "sd", "missing")
    head = ["rater", *(_n(text, "th", scope="col") for text in numbers), "missing because"]
    return _join(
        [
            _table("Scores of every rater", head, map(_rater, raters)),
            el("div", *(_rater_plot(rater) for rater in raters), class_="plots"),
        ]
    )


def _rater(rater: Rater) -> Html:
    values = (rater["n"], rater["distinct"], rater["low"], rater["mean"], rater["high"], rater["sd"])
    return el(
        "tr",
        el("th", rater["rater"], scope="row"),
        *(_n(_number(value)) for value in (*values, sum(rater["nulls"].values()))),
        el("td", _reasons(rater["nulls"])),
    )


def _rater_plot(rater: Rater) -> Html:
    line = f" · line: mean {_number(rater['mean'])}" if rater["mean"] is not None else ""
    return el(
        "figure",
        el("figcaption", el("b", rater["rater"]), line),
        _histogram(rater, f"Scores of {rater['rater']}", mark=rater["mean"]),
    )


def _histogram(data: Histogram, what: str, mark: float | None = None) -> Html:
    edges, counts = data["edges"], data["counts"]
    if not counts or edges[-1] <= edges[0]:
        return _none("Nothing to count.")
    scale, most = 100 / (edges[-1] - edges[0]), max(1, *counts)
    labelled = len(counts) * len(_number(most)) <= 36  # as many characters as fit a phone
    bars, told = [], []
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        x, width, height = scale * (low - edges[0]), scale * (high - low), 100 * count / most
        told.append(f"{_number(low)} to {_number(high)}: {_number(count)}")
        place = {"x": f"{x:.3f}%", "y": f"{100 - height:.3f}%", "width": f"{width:.3f}%", "height": f"{height:.3f}%"}
        bars.append(el("rect", el("title", told[-1]), class_="bin", data_count=count, **place))
        if count and (labelled or count == most):
            middle = f"{x + width / 2:.3f}%"
            bars.append(el("text", _number(count), class_="count", x=middle, y=place["y"], dy=-3, text_anchor="middle"))
    axis = el("line", class_="axis", x1=0, x2="100%", y1="100%", y2="100%")
    ends = [
        el("text", _number(edges[0]), x=0, y="100%", dy=15),
        el("text", _number(edges[-1]), x="100%", y="100%", dy=15, text_anchor="end"),
    ]
    if mark is not None and edges[0] <= mark <= edges[-1]:
        at = f"{scale * (mark - edges[0]):.3f}%"
        ends.append(el("line", class_="mean", x1=at, x2=at, y1=0, y2="100%"))
        told.append(f"mean: {_number(mark)}")
    return _svg(what, "; ".join(told), 104, *bars, axis, *ends, class_="histogram")


def _rules(rules: Rules) -> Html:
    """What share of prompts gets the same rejected response from both rules, and why."""
    total, same, forced = rules["prompts"], rules["same"], rules["same_by_theorem"]
    names = f"{rules['rejected']} and {rules['compared_with']}"
    advice = [el("p", line, class_="advice") for line in rules["advice"]]
    if not total:
        return _join([_none(f"No prompt on which {names} could be compared."), *advice])
    kinds = [
        ("forced", forced, "same response, forced by the number of candidates"),
        ("same", same - forced, "same response, by the scores"),
        ("differ", total - same, "another response"),
    ]
    key = el(
        "ul",
        *(el("li", el("i", class_=kind), f"{text}: {_share(n, total)}") for kind, n, text in kinds),
        class_="legend",
    )
    drawn = _svg(
        f"{names} compared over {total:,} prompts",
        "; ".join(f"{text}: {n:,}" for _, n, text in kinds),
        18,
        *_bar((kind, n / total) for kind, n, _ in kinds),
        class_="shares",
    )
    theorem = el(
        "p",
        f"Forced: with n ≤ 2k² + 2 responses (10 at k = 2) the one nearest to mean − k·sd is always the lowest, "
        f"whatever the scores. That settled {_share(forced, total)} of the prompts before a score was given.",
        class_="note",
    )
    sentence = el(
        "p",
        el("b", rules["rejected"]),
        " rejects the same response as ",
        el("b", rules["compared_with"]),
        f" on {_share(same, total)} prompts.",
        class_="lead",
    )
    return _join([sentence, drawn, key, *advice, *([theorem] if forced else [])])


def _pairs(pairs: Pairs) -> Html:
    if not pairs["n"]:
        return _none("No pair was made. The stage table above says why.")
    numbers = _terms(
        [
            ("pairs", _number(pairs["n"])),
            ("rejected one is the prompt's lowest", _share(pairs["hit_extreme"], pairs["n"])),
            ("chosen text cut off", _share(pairs["truncated_chosen"], pairs["n"])),
            ("rejected text cut off", _share(pairs["truncated_rejected"], pairs["n"])),
            ("mean skewness of a prompt's scores", _signed(pairs["skewness_mean"])),
        ]
    )
    margin = el(
        "figure",
        el("figcaption", "Margin: score of chosen − score of rejected"),
        _histogram(pairs["margin"], "Margins of the pairs"),
    )
    achieved = el(
        "figure", el("figcaption", "Achieved z: mean position of both sides in their prompt's scores"), _z_axis(pairs)
    )
    return _join([numbers, el("div", margin, achieved, class_="plots two")])


def _z_axis(pairs: Pairs) -> Html:
    def at(z: float) -> str:
        return f"{50 + 50 * max(-MAX_Z, min(MAX_Z, z)) / MAX_Z:.3f}%"

    line = 44  # pixels from the top
    ticks = [el("line", class_="axis", x1=0, x2="100%", y1=line, y2=line)]
    for z in range(-3, 4):
        name = f"{z:+d}σ".replace("-", "−") if z else "mean"
        ticks.append(el("line", class_="axis", x1=at(z), x2=at(z), y1=line - 5, y2=line + 5))
        ticks.append(el("text", name, x=at(z), y=line + 20, text_anchor="middle"))
    sides = [("chosen", pairs["z_chosen"]), ("rejected", pairs["z_rejected"])]
    for (side, z_mean), above in zip(sides, (32, 13), strict=True):
        if z_mean is not None:
            anchor = "start" if z_mean < -2.4 else "end" if z_mean > 2.4 else "middle"
            ticks.append(el("circle", class_=side, cx=at(z_mean), cy=line, r=6))
            ticks.append(
                el("text", f"{side} {_signed(z_mean)}", class_=side, x=at(z_mean), y=line - above, text_anchor=anchor)
            )
    told = "; ".join(f"{side}: {_signed(z_mean)}" for side, z_mean in sides)
    return _svg("Achieved z", told, line + 22, *ticks, class_="zaxis")


def _prompts(facts: Facts) -> Html:
    if not facts["prompts"]:
        return _none("No prompt to show.")
    chosen_by = f" Chosen by: {facts['prompts_chosen_by']}." if facts["prompts_chosen_by"] else ""
    shown = _share(facts["prompts_shown"], facts["prompts_total"])
    return el("p", f"{shown} prompts are on this page.{chosen_by}", class_="lead")


def _origin(facts: Facts) -> Html:
    settings = [(key, el("code", value)) for key, value in _flat(facts["settings"])]
    versions = [(name, el("code", version)) for name, version in facts["versions"].items()]
    inputs = [
        el("tr", el("th", path, scope="row"), el("td", el("code", digest))) for path, digest in facts["inputs"].items()
    ]
    return _join(
        [
            el("h3", "Settings"),
            _terms(settings, class_="settings") if settings else _none("None given."),
            el("h3", "Versions"),
            _terms(versions, class_="settings") if versions else _none("None given."),
            el("h3", "Inputs"),
            _table("Input files and their sha256", ["file", "sha256"], inputs) if inputs else _none("None given."),
        ]
    )


def _flat(value: Mapping[str, object], before: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names with JSON values."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{before}{key}.")
        else:
            yield f"{before}{key}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
