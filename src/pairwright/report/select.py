"""What a selection kept and beside what, as a section of the page and as a page of its own. Computes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pairwright.report.html import (
    NONE,
    Html,
    cell,
    el,
    join,
    none,
    number,
    percent,
    reasons,
    share,
    standalone,
    table,
    terms,
)

CUT_AT = 600  # characters of a text
SIDE = 340  # pixels of the joint plot
SETS = (("pool", "all pairs"), ("kept", "kept"), ("control", "random, same size"))


def section(facts: Mapping[str, Any], ends: Sequence[Mapping[str, Any]] = ()) -> Html:
    """The inside of the section. `facts` are those of the select stage, `ends` the pairs that are shown with texts."""
    lead = el(
        "p",
        f"{share(facts['kept'], facts['pairs'])} pairs kept by ",
        el("b", facts["rule"]),
        f": {facts['about']}.",
        class_="lead",
    )
    parts = [
        lead,
        *(el("p", line, class_="advice") for line in facts["warnings"]),
        el("h3", "Every pair accounted for"),
        reasons(facts["reasons"]),
        el("h3", "The selection beside its control"),
        _sets(facts),
        _chance(facts),
        _labels(facts["labels"]),
        _sources(facts),
        _plots(facts),
    ]
    if "compare" in facts:
        parts.append(_compare(facts["compare"]))
    return join([*parts, *map(_end, ends)])


def _sets(facts: Mapping[str, Any]) -> Html:
    """Margins, lengths and coverage of all pairs, the kept ones, and the mean of the random subsets."""
    sets = {**facts["sets"], "control": facts["control"].get("mean")}
    names = [(name, title) for name, title in SETS if sets.get(name)]
    head = ["", *(cell(title, "th", scope="col") for _, title in names)]
    rows = [_line("pairs", (number(sets[name]["pairs"]) for name, _ in names))]
    for source in facts["sets"]["pool"]["margins"]:
        held = [sets[name]["margins"][source] for name, _ in names]
        rows.append(_line(f"margin, {source}: mean", (number(each["mean"]) for each in held)))
        rows.append(_line(f"margin, {source}: 5 % · median · 95 %", map(_quantiles, held)))
        rows.append(_line(f"margin, {source}: below 0", (percent(each["below_zero"]) for each in held)))
    if "length" in facts["sets"]["pool"]:
        unit = facts["sets"]["pool"]["length"]["unit"]
        for key, title in (("chosen", f"mean {unit}, chosen"), ("rejected", f"mean {unit}, rejected")):
            rows.append(_line(title, (number(sets[name]["length"][key]) for name, _ in names)))
        rows.append(
            _line("chosen is the longer one", (percent(sets[name]["length"]["chosen_longer"]) for name, _ in names))
        )
    for key, title in (("prompts", "prompts covered"), ("sources", "sources covered")):
        if key in facts["sets"]["pool"]:
            rows.append(_line(title, (number(round(sets[name][key])) for name, _ in names)))
    if "rejected_is_lowest" in facts["sets"]["pool"]:
        shown = (percent(sets[name].get("rejected_is_lowest")) for name, _ in names)
        rows.append(_line("rejected has its prompt's lowest score", shown))
    return table("Numbers of the kept pairs", head, rows)


def _line(title: str, values: Iterable[object]) -> Html:
    return el("tr", el("th", title, scope="row"), *map(cell, values))


def _quantiles(told: Mapping[str, Any]) -> str:
    held = told["quantiles"]
    return NONE if held is None else f"{number(held[0])} · {number(held[2])} · {number(held[4])}"


def _chance(facts: Mapping[str, Any]) -> Html:
    control = facts["control"]
    if not control["n"]:
        return none("No random subset was asked for, so that nothing stands beside these numbers.")
    told = (
        f"{control['n']} random subsets of the same size share {percent(control['overlap'])} of the selection; by chance it is "
        f"{percent(control['chance'])} ± {percent(control['chance_sd'])}."
    )
    if control.get("capped"):
        told += " The subsets were drawn under the caps of the selection; chance is that of sets without caps."
    length = facts["score_and_length"]
    more = length.get("why") or f"Rank correlation of the score with the length gap: {number(length['spearman'])}."
    return join([el("p", told), el("p", more)])


def _labels(told: Mapping[str, Any]) -> Html:
    parts = [el("h3", "How many labels are wrong?")]
    if told.get("pool") is None:
        parts.append(none(f"Cannot be estimated: {told['why']}."))
    else:
        parts.append(
            el("p", f"About {percent(told['pool'])} ± {percent(told['se'])} of all labels, if {told['assumes']}.")
        )
        for name, each in told["kept"].items():
            shown = percent(each["rate"]) if each["rate"] is not None else f"unknown ({each['why']})"
            parts.append(el("p", f"Of the kept ones {shown}, by {name}, which had no say in the selection."))
        if "why_kept" in told:
            parts.append(none(f"Of the kept ones: {told['why_kept']}."))
    if told.get("against"):
        parts.append(terms([(f"labels that {name} contradicts", percent(v)) for name, v in told["against"].items()]))
    return join(parts)


def _sources(facts: Mapping[str, Any]) -> Html:
    parts: list[Html] = []
    if facts.get("sources"):
        titles = ("pairs", "M1", "M2", "scale", "score of margin 0", "at 1", "at 0", "quartiles apart")
        head = ["source", *(cell(text, "th", scope="col") for text in titles)]
        keys = ("n", "low", "high", "scale", "score_of_zero", "at_one", "at_zero", "iqr")
        rows = [
            el("tr", el("th", name, scope="row"), *(cell(number(each.get(key))) for key in keys))
            for name, each in facts["sources"].items()
        ]
        parts += [el("h3", "Sources"), table("Scores of the sources", head, rows)]
        conflicts = [("contradictions (one says 1, another 0), ranked last", number(facts["conflicts"]))]
        if "near_conflicts_kept" in facts:
            conflicts.append(
                ("kept though one source is below 1/2 and another all but sure", number(facts["near_conflicts_kept"]))
            )
        parts.append(terms(conflicts))
    held = facts["independence"]
    if held["pairs"]:
        head = ["sources", *(cell(text, "th", scope="col") for text in ("rank correlation", "given the length gap"))]
        rows = [
            _line(f"{each['a']} · {each['b']}", (number(each["spearman"]), number(each["given_length"])))
            for each in held["pairs"]
        ]
        parts += [el("h3", "Are the sources independent?"), table("Rank correlations of the margins", head, rows)]
    if held["length"]:
        parts.append(terms([(f"{name} and the length gap", number(value)) for name, value in held["length"].items()]))
    parts.append(el("p", held["caution"][0].upper() + held["caution"][1:] + ".", class_="note"))
    return join(parts)


# Plots


def _plots(facts: Mapping[str, Any]) -> Html:
    drawn = []
    if facts.get("joint"):
        drawn.append(_joint(facts["joint"], facts.get("sources") or {}))
    drawn += [_histogram(name, told) for name, told in facts["histograms"].items()]
    key = el(
        "ul", el("li", el("i", class_="dot"), "all pairs"), el("li", el("i", class_="taken"), "kept"), class_="legend"
    )
    return join([el("h3", "Where the kept pairs are"), key, el("div", *drawn, class_="plots")])


def _joint(told: Mapping[str, Any], sources: Mapping[str, Any]) -> Html:
    """Dots in percentages of the box; the ranges cut off the outermost 1 % of each side."""
    points = told["points"]
    if len(points) < 2:
        return none("Too few pairs have both margins for a plot.")
    (x0, x1), (y0, y1) = told["x_range"], told["y_range"]

    def across(value: float) -> float:
        return float(100 * min(max((value - x0) / (x1 - x0), 0), 1))

    def down(value: float) -> float:
        return float(100 - 100 * min(max((value - y0) / (y1 - y0), 0), 1))

    drawn = []
    for x, y, taken in sorted(points, key=lambda point: bool(point[2])):
        drawn.append(
            el("circle", class_="taken" if taken else "dot", cx=f"{across(x):.2f}%", cy=f"{down(y):.2f}%", r=2.2)
        )
    lines = []
    for name, place in ((told["x"], across), (told["y"], down)):
        for key in ("low", "high"):
            if (value := sources.get(name, {}).get(key)) is not None:
                at = f"{place(value):.2f}%"
                ends = (
                    {"x1": at, "x2": at, "y1": 0, "y2": "100%"}
                    if place is across
                    else {"x1": 0, "x2": "100%", "y1": at, "y2": at}
                )
                lines.append(el("line", class_="bound", **ends))
    cut = _cut(told.get("region") or [], across, down)
    axes = [
        el("line", class_="axis", x1=0, x2="100%", y1="100%", y2="100%"),
        el("line", class_="axis", x1=0, x2=0, y1=0, y2="100%"),
        el("text", number(x0), x=0, y="100%", dy=15),
        el("text", number(x1), x="100%", y="100%", dy=15, text_anchor="end"),
        el("text", f"{told['x']} margin", x="50%", y="100%", dy=15, text_anchor="middle"),
        el("text", f"{told['y']} margin: {number(y0)} to {number(y1)}", x=0, y=-5),
    ]
    what = f"{told['x']} against {told['y']} margin"
    details = f"{len(points)} of {told['of']} pairs" + "; dashed: bounds M1 and M2" * bool(lines)
    details += "; line: the score of the last kept pair" * bool(cut)
    svg = el(
        "svg", el("title", what), el("desc", details), *lines, *drawn, *cut, *axes,
        class_="joint", width="100%", height=SIDE, role="img", aria_label=f"{what}. {details}",
    )  # fmt: skip
    return el("figure", el("figcaption", el("b", what), f" · {details}"), svg)


def _cut(region: Sequence[Sequence[float]], across: Any, down: Any) -> list[Html]:
    """The line above which pairs are kept: lines between neighbours, as percentages allow no path."""
    return [
        el(
            "line",
            class_="cut",
            x1=f"{across(a[0]):.2f}%",
            y1=f"{down(a[1]):.2f}%",
            x2=f"{across(b[0]):.2f}%",
            y2=f"{down(b[1]):.2f}%",
        )
        for a, b in pairwise(region)
    ]


def _histogram(name: str, told: Mapping[str, Any]) -> Html:
    edges = told["edges"]
    title = el("figcaption", el("b", name))
    if not edges:
        return el("figure", title, none("No pair has this number."))
    most, scale = max(1, *told["pool"]), 100 / (edges[-1] - edges[0])
    bars: list[Html] = []
    if band := told.get("band"):
        low, high = (min(max(scale * (value - edges[0]), 0), 100) for value in band)
        bars.append(
            el(
                "rect",
                el("title", f"band {number(band[0])} to {number(band[1])}"),
                class_="band",
                x=f"{low:.2f}%",
                y=0,
                width=f"{high - low:.2f}%",
                height="100%",
            )
        )
    for (low, high), pool, kept in zip(pairwise(edges), told["pool"], told["kept"], strict=True):
        said = f"{number(low)} to {number(high)}: {number(pool)}, kept {number(kept)}"
        for class_, count in (("bin", pool), ("taken", kept)):
            tall = 100 * count / most
            place = {
                "x": f"{scale * (low - edges[0]):.2f}%",
                "width": f"{scale * (high - low):.2f}%",
                "y": f"{100 - tall:.2f}%",
                "height": f"{tall:.2f}%",
            }
            bars.append(el("rect", el("title", said), class_=class_, **place))
    axis = [
        el("line", class_="axis", x1=0, x2="100%", y1="100%", y2="100%"),
        el("text", number(edges[0]), x=0, y="100%", dy=15),
        el("text", number(edges[-1]), x="100%", y="100%", dy=15, text_anchor="end"),
    ]
    details = f"{number(sum(told['pool']))} pairs, {number(sum(told['kept']))} kept; the end bins hold what lies beyond"
    what = f"Distribution of {name}"
    svg = el(
        "svg", el("title", what), el("desc", details), *bars, *axis,
        class_="histogram", width="100%", height=104, role="img", aria_label=f"{what}. {details}",
    )  # fmt: skip
    return el("figure", title, svg)


# Rules beside each other


def _compare(told: Mapping[str, Any]) -> Html:
    sources = list(told["rules"][0]["margins"]) if told["rules"] else []
    head = [
        "rule",
        *(
            cell(text, "th", scope="col")
            for text in (
                "kept",
                *(f"mean {s}" for s in sources),
                *(f"{s} below 0" for s in sources),
                "chosen longer",
                "prompts",
                "with random",
                "by chance",
            )
        ),
    ]
    rows = [
        el(
            "tr",
            el("th", each["rule"], scope="row"),
            cell(number(each["kept"])),
            *(cell(number(each["margins"][source])) for source in sources),
            *(cell(percent(each["below_zero"][source])) for source in sources),
            cell(percent(each["chosen_longer"])),
            cell(number(each["prompts"])),
            cell(percent(each["with_random"])),
            cell(percent(each["chance"])),
        )
        for each in told["rules"]
    ]
    parts = [el("h3", "All rules that these columns allow"), table("Rules at one budget", head, rows), _matrix(told)]
    if told["refused"]:
        refused = [el("li", el("b", name), f": {why}") for name, why in told["refused"].items()]
        parts.append(el("details", el("summary", f"{len(refused)} rules could not be run"), el("ul", *refused)))
    return join(parts)


def _matrix(told: Mapping[str, Any]) -> Html:
    """Overlap of every two rules, as a share of the smaller set; in brackets what random sets of these sizes have."""
    names = told["names"]
    head = ["overlap (chance)", *(cell(name, "th", scope="col") for name in names)]
    rows = []
    for name, line, chance, beyond in zip(names, told["overlap"], told["chance"], told["beyond_chance"], strict=True):
        rows.append(
            el("tr", el("th", name, scope="row"), *(_heated(*each) for each in zip(line, chance, beyond, strict=True)))
        )
    lead = "Share of the smaller set that both keep, in brackets by chance, in %. The square is the darker the further beyond."
    return join([el("p", lead, class_="note"), table("Overlap of the rules", head, rows)])


def _heated(value: float | None, chance: float | None, beyond: float | None) -> Html:
    if value is None:
        return cell(NONE)
    strength = max(0.0, min(1.0, beyond or 0.0))
    square = el(
        "svg",
        el("rect", class_="heat", width=9, height=9, fill_opacity=f"{strength:.2f}"),
        width=9,
        height=9,
        aria_hidden="true",
    )
    return cell(join([square, f"{100 * value:.0f} ({100 * (chance or 0):.0f})"]))


# Pairs with their texts


def _end(told: Mapping[str, Any]) -> Html:
    return join([el("h3", f"{told['name']}: {len(told['pairs'])} pairs"), *map(_pair, told["pairs"])])


def _pair(row: Mapping[str, Any]) -> Html:
    facts = [("rank", number(row.get("rank"))), ("score", number(row.get("fused_score"))), ("outcome", row["reason"])]
    facts += [(name, number(value)) for name, value in row["margins"].items()]
    facts += [("influence", number(row["influence"]))] if "influence" in row else []
    facts += [("pair", el("code", row["id"]))]
    cards = [
        el("div", el("h4", side), el("p", _short(row[side]), class_="text", dir="auto"), class_=f"card {side}")
        for side in ("chosen", "rejected")
    ]
    asked = el("p", _short(row["prompt"]), class_="text", dir="auto")
    if row["prompt"] is None and row["chosen"] is None:
        return terms(facts)
    return join([terms(facts), asked, el("div", *cards, class_="texts")])


def _short(text: str | None) -> str:
    if text is None:
        return NONE
    return text if len(text) <= CUT_AT else f"{text[:CUT_AT]} ..."


def page_of(
    facts: Mapping[str, Any], ends: Sequence[Mapping[str, Any]], *, title: str, origin: Sequence[tuple[str, str]]
) -> str:
    """A page of its own."""
    sections = [("What was kept, and beside what", section(facts, ends))]
    return standalone(title, [*sections, ("Where this comes from", terms(origin, class_="settings"))])
