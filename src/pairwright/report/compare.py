"""The page of a comparison: arms, differences, reward against KL. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from pairwright.report.html import NONE, Html, cell, el, join, none, number, percent, standalone, table, terms
from pairwright.report.plots import Curve, drawing


def page_of(facts: Mapping[str, Any], *, title: str, origin: Sequence[tuple[str, str]]) -> str:
    """A page of its own."""
    sections = [
        ("What was compared", _head(facts)),
        ("Reward against distance", _plot(facts)),
        ("Arms", _arms(facts)),
        ("Against the base, the controls and each other", _differences(facts)),
    ]
    if facts["levels"]:
        sections.append(("With a high goal, a low one and none", _levels(facts)))
    return standalone(title, [*sections, ("Where this comes from", terms(origin, class_="settings"))])


def _head(facts: Mapping[str, Any]) -> Html:
    rows: list[tuple[object, object]] = [
        ("base", facts["base"]),
        ("deciding rater", facts["rater"]),
        ("held-out prompts", number(facts["prompts"])),
        ("draws per prompt", number(facts["draws"])),
        ("training seeds", ", ".join(map(str, facts["seeds"]))),
        ("steps of every arm", number(facts["steps"])),
        ("pairs per step", number(facts["pairs_per_step"])),
    ]
    notes = el("ul", *(el("li", line) for line in facts["notes"])) if facts["notes"] else none("Nothing to note.")
    how = (
        "Intervals hold 95 % of draws of prompts and training seeds together. KL is that of the policy from the base on its own "
        "answers, nats per answer. At equal KL both arms are read where they have gone as far as the one that went less far."
    )
    return join([terms(rows, class_="key"), notes, el("p", how, class_="note")])


def _plot(facts: Mapping[str, Any]) -> Html:
    base = next(arm for arm in facts["arms"] if arm["kind"] == "base")["reward"]
    curves = [Curve("base", [0.0], [base["value"]], [base["low"]], [base["high"]], mark=True)]
    for arm in facts["arms"]:
        points = [point for point in facts["points"] if point["arm"] == arm["name"]]
        if points:
            held = [{key: point["reward"][key] for key in ("value", "low", "high")} for point in points]
            curves.append(
                Curve(
                    arm["name"],
                    [0.0, *(point["kl"]["value"] or 0.0 for point in points)],
                    [base["value"], *(each["value"] for each in held)],
                    [None, *(each["low"] for each in held)],
                    [None, *(each["high"] for each in held)],
                    mark=True,
                )
            )
    return drawing(
        f"Mean reward ({facts['rater']}) on held-out prompts", curves, x="KL from the base, nats per answer", y="reward"
    )


def _arms(facts: Mapping[str, Any]) -> Html:
    others = list(facts["arms"][0]["other_raters"])
    titles = ("pairs", "beta", "reward", "KL, nats", "tokens", "cut off", *others)
    head = ["arm", "what it is", *(cell(t, "th", scope="col") for t in titles)]
    rows = []
    for arm in facts["arms"]:
        what = arm["note"] or (f"loss {arm['loss']}" if "loss" in arm else "")
        values = [
            number(arm.get("pairs")),
            number(arm.get("beta")),
            told(arm["reward"]),
            told(arm["kl"]),
            told(arm["tokens"]),
        ]
        values += [percent(arm["cut"]), *(told(arm["other_raters"][name]) for name in others)]
        rows.append(el("tr", el("th", arm["name"], scope="row"), el("td", what), *(cell(value) for value in values)))
    return table("Every arm at the end of its budget", head, rows)


def _differences(facts: Mapping[str, Any]) -> Html:
    head = [
        "",
        *(cell(t, "th", scope="col") for t in ("reward", "at equal length", "at equal KL", "KL", "wins", "tokens")),
    ]
    rows = []
    for each in facts["differences"]:
        matched = each["at_equal_kl"]
        values = [told(each["reward"], signed=True), told(each["at_equal_length"], signed=True)]
        values += [told(matched, signed=True) if matched else NONE, number(matched["kl"]) if matched else NONE]
        values += [told(each["wins"], share=True), told(each["tokens"], signed=True)]
        rows.append(el("tr", el("th", f"{each['a']} − {each['b']}", scope="row"), *(cell(value) for value in values)))
    slope = facts["reward_per_token"]
    note = (
        "No rater's slope over length could be found."
        if slope is None
        else f"At equal length: less {number(slope)} per token, the rater's slope among answers of one arm to one prompt."
    )
    return join([table("Differences, paired by prompt and seed", head, rows), el("p", note, class_="note")])


def _levels(facts: Mapping[str, Any]) -> Html:
    head = ["arm", "goal", *(cell(t, "th", scope="col") for t in ("reward", "KL, nats"))]
    rows = [
        el(
            "tr",
            el("th", each["arm"], scope="row"),
            el("td", each["level"]),
            cell(told(each["reward"])),
            cell(told(each["kl"])),
        )
        for each in facts["levels"]
    ]
    return table("Conditioned arms at the end of their budget", head, rows)


def told(each: Mapping[str, float | None], *, signed: bool = False, share: bool = False) -> str:
    """value (low to high)."""
    if each["value"] is None:
        return NONE
    value, low, high = (each[key] for key in ("value", "low", "high"))
    if share:
        return f"{percent(value)} ({percent(low)} to {percent(high)})"
    plus = "+" if signed and value is not None and value > 0 else ""
    return f"{plus}{short(value)} ({short(low)} to {short(high)})"


def short(value: float | None) -> str:
    """Three significant digits."""
    return NONE if value is None else f"{value:.3g}".replace("-", "−")
