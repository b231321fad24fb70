"""The page of a training run: what became of every pair, the curves, the alarms. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from pairwright.report.html import Html, cell, el, join, none, number, percent, reasons, standalone, table, terms
from pairwright.report.plots import Curve, drawing, plots

_CURVES = (  # (title, unit, {series: what it is called})
    ("Loss", "loss",
     {"loss": "all", "pairwright/loss/dpo": "preference", "pairwright/loss/sft": "sft", "eval_loss": "held out"}),
    ("Log-ratio to the reference", "nats per response",
     {"pairwright/logratio/chosen": "chosen", "pairwright/logratio/rejected": "rejected"}),
    ("Implied reward margin", "beta x nats",
     {"rewards/margins": "chosen - rejected", "eval_rewards/margins": "held out"}),
    ("Pairs that are ordered right", "share",
     {"rewards/accuracies": "training pairs", "eval_rewards/accuracies": "held out"}),
)  # fmt: skip


def page_of(facts: Mapping[str, Any], *, title: str, origin: Sequence[tuple[str, str]]) -> str:
    """A page of its own."""
    return standalone(
        title,
        [
            ("What was trained", _head(facts)),
            ("What happened to every pair", _ledger(facts["ledger"])),
            ("Curves", _curves(facts["history"])),
            ("Alarms of the guard", _alarms(facts["alarms"])),
            ("Where this comes from", terms(origin, class_="settings")),
        ],
    )


def _head(facts: Mapping[str, Any]) -> Html:
    trained, whole = facts["parameters"]
    asked = facts["settings"]["train"]
    rows: list[tuple[object, object]] = [
        ("model", asked["model"]),
        ("loss", asked["loss"]),
        ("beta", number(asked["beta"])),
        ("steps", number(facts["steps"])),
        ("pairs per step", number(facts["pairs_per_step"])),
        ("parameters trained", f"{number(trained)} of {number(whole)}"),
        ("reference", facts["reference"]),
        ("seconds", number(facts["seconds"])),
    ]
    parts = [terms(rows, class_="key")]
    if spent := facts["lr_spent"]:
        head = [
            "objective",
            *(cell(t, "th", scope="col") for t in ("pairs", "share of the pairs", "share of the learning rate")),
        ]
        lines = [
            el("tr", el("th", name, scope="row"), cell(number(each["pairs"])),
               cell(percent(each["data_share"])), cell(percent(each["lr_share"])))
            for name, each in spent.items()
        ]  # fmt: skip
        parts.append(table("What each objective gets", head, lines))
        if (ratio := facts.get("route", {}).get("gradient_ratio")) is not None:
            parts.append(
                el(
                    "p",
                    f"On the chosen side of an sft pair the preference loss would pull {number(ratio)} times as hard.",
                    class_="note",
                )
            )
    return join(parts)


def _ledger(ledger: Sequence[Mapping[str, Any]]) -> Html:
    head = ["step", *(cell(t, "th", scope="col") for t in ("in", "kept")), "dropped because"]
    rows = [
        el("tr", el("th", each["stage"], scope="row"), cell(number(each["rows_in"])), cell(number(each["kept"])),
           el("td", reasons(each["dropped"])))
        for each in ledger
    ]  # fmt: skip
    return table("Counts of every step", head, rows)


def _curves(history: Sequence[Mapping[str, float]]) -> Html:
    figures = []
    for title, unit, series in _CURVES:
        curves = [
            Curve(
                name, [line["step"] for line in history if key in line], [line[key] for line in history if key in line]
            )
            for key, name in series.items()
            if any(key in line for line in history)
        ]
        if curves:
            figures.append(drawing(title, curves, x="step", y=unit))
    told = "A margin that grows says that the pairs are told apart, not that answers are better."
    return join([plots(*figures), el("p", told, class_="note")])


def _alarms(alarms: Sequence[Mapping[str, Any]]) -> Html:
    if not alarms:
        return none("None.")
    return el("ul", *(el("li", each["told"]) for each in alarms))
