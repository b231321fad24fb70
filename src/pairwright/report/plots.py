"""Drawings of numbers against numbers: curves and points with intervals. SVG without a script and without inline styles."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pairwright.report.html import Html, el, join, number

WIDE, HIGH = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
COLOURS = 8  # classes c0 .. c7 of the page


class Curve(NamedTuple):
    """One line of a drawing; a y that is None breaks it. `low` and `high` are ends of intervals, where there are any.

    `curve` joins the points; `mark` draws them. The colour goes by the place in the drawing unless `colour` says it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    joined: bool = True
    mark: bool = False
    colour: int | None = None


def drawing(what: str, curves: Sequence[Curve], *, x: str, y: str) -> Html:
    """A figure with axes, grid, a legend and a description that a screen reader reads."""
    xs = [value for curve in curves for value, held in zip(curve.x, curve.y, strict=True) if held is not None]
    ys = [value for curve in curves for value in (*curve.y, *curve.low, *curve.high) if value is not None]
    if not xs:
        return el("figure", el("figcaption", what), el("p", "Nothing to draw.", class_="none"))
    across, up = _Axis(xs, LEFT, WIDE - RIGHT), _Axis(ys, HIGH - BOTTOM, TOP)
    inside = [*_grid(across, up), *_names(x, y)]
    for place, curve in enumerate(curves):
        inside += _curve(curve, across, up, (place if curve.colour is None else curve.colour) % COLOURS)
    told = "; ".join(f"{curve.name}: {_said(curve)}" for curve in curves)
    svg = el(
        "svg", el("title", what), el("desc", told), *inside, viewBox=f"0 0 {WIDE} {HIGH}", class_="drawing", role="img",
        aria_label=f"{what}. {told}",
    )  # fmt: skip
    key = [
        el("li", el("i", class_=f"c{(place if curve.colour is None else curve.colour) % COLOURS}"), curve.name)
        for place, curve in enumerate(curves)
    ]
    return el("figure", el("figcaption", what), svg, el("ul", *key, class_="legend"))


def _said(curve: Curve) -> str:
    known = [value for value in curve.y if value is not None]
    return f"{number(known[0])} to {number(known[-1])}" if known else "nothing"


class _Axis:
    """Numbers onto pixels, with round ticks."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        held = np.asarray(list(values), np.float64)
        low, high = float(held.min()), float(held.max())
        if low == high:
            pad = abs(low) * 0.1 or 0.5
            low, high = low - pad, high + pad
        raw = (high - low) / 4
        unit = 10.0 ** np.floor(np.log10(raw))
        self.step = float(min((m * unit for m in (1, 2, 5, 10) if m * unit >= raw), default=raw))
        self.low, self.high = np.floor(low / self.step) * self.step, np.ceil(high / self.step) * self.step
        self.start, self.end = start, end

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.2f}"

    @property
    def ticks(self) -> list[float]:
        n = round((self.high - self.low) / self.step)
        return [float(np.round(self.low + k * self.step, 12)) for k in range(n + 1)]


def _grid(across: _Axis, up: _Axis) -> list[Html]:
    out = []
    for tick in across.ticks:
        out.append(el("line", class_="tick", x1=across.at(tick), x2=across.at(tick), y1=TOP, y2=HIGH - BOTTOM))
        out.append(el("text", number(tick), x=across.at(tick), y=HIGH - BOTTOM + 15, text_anchor="middle"))
    for tick in up.ticks:
        out.append(el("line", class_="tick", x1=LEFT, x2=WIDE - RIGHT, y1=up.at(tick), y2=up.at(tick)))
        out.append(el("text", number(tick), x=LEFT - 6, y=up.at(tick), dy=4, text_anchor="end"))
    return out


def _names(x: str, y: str) -> list[Html]:
    middle = (TOP + HIGH - BOTTOM) / 2
    return [
        el("text", x, x=(LEFT + WIDE - RIGHT) / 2, y=HIGH - 6, text_anchor="middle"),
        el("text", y, x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle})"),
    ]


def _curve(curve: Curve, across: _Axis, up: _Axis, colour: int) -> list[Html]:
    known = [
        (across.at(x), up.at(y), place)
        for place, (x, y) in enumerate(zip(curve.x, curve.y, strict=True))
        if y is not None
    ]
    out = []
    if curve.joined and len(known) > 1:
        out.append(el("polyline", points=" ".join(f"{x},{y}" for x, y, _ in known), class_=f"line c{colour}"))
    for x, y, place in known if curve.mark or len(known) == 1 else []:
        low, high = (side[place] if side else None for side in (curve.low, curve.high))
        if low is not None and high is not None:
            out.append(el("line", x1=x, x2=x, y1=up.at(low), y2=up.at(high), class_=f"line c{colour}"))
        out.append(
            el("circle", el("title", f"{curve.name}: {number(curve.y[place])}"), cx=x, cy=y, r=4, class_=f"c{colour}")
        )
    return out


def plots(*figures: Html) -> Html:
    """Figures side by side where there is room."""
    return el("div", join(figures), class_="plots two")
