"""Drawings as SVG text: intervals one under another, lines, tables. Numbers are rounded: equal results are equal files."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8a5a9e", "#b8860b", "#4a4a4a", "#d081b0", "#2aa198")
BY_OUTCOME = {"above": "#1b6ca8", "below": "#c8553d", "same": "#777777", "open": "#b8860b"}
FONT = 'font-family="sans-serif" font-size="12"'


class Line(NamedTuple):
    """A label and points (x, mean, half width)."""

    label: str
    points: Sequence[tuple[float, float, float]]


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    body = "\n".join(parts)
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f'{head} role="img">\n<title>{escape(title)}</title>\n{ground}\n{body}\n</svg>\n'


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {FONT} text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    step = 10 ** np.floor(np.log10((high - low) / most))
    step = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= most)
    return [float(round(t, 10)) or 0.0 for t in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


Item = tuple[str, float, float, str]  # words, mean, half width, outcome


def forest(title: str, groups: Sequence[tuple[str, Sequence[Item]]], unit: str) -> str:
    """Under each heading one line per item, with 0 marked."""
    left, width, row, top = 470, 860, 20, 34
    items = [item for _, group in groups for item in group]
    known = [(m - h, m + h) for _, m, h, _ in items if np.isfinite(m) and np.isfinite(h)]
    low, high = min([0.0, *(a for a, _ in known)]), max([0.0, *(b for _, b in known)])
    pad = 0.05 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 15)

    bottom = top + row * (len(items) + len(groups))
    parts = [_text(10, 18, title, bold=True)]
    parts += [_rule(x(t), top - 6, bottom, "#e5e5e5") for t in ticks(low, high)]
    parts += [_text(x(t), bottom + 14, f"{t:g}", anchor="middle") for t in ticks(low, high)]
    parts.append(_rule(x(0), top - 6, bottom, "#333"))
    y = top + 8
    for heading, group in groups:
        parts.append(_text(10, y + 4, _cut(heading, 110), bold=True))
        for words, mean, half, outcome in group:
            y += row
            parts += [_text(left - 8, y + 4, _cut(words, 72), anchor="end"), *_whisker(x, y, mean, half, outcome)]
        y += row
    parts.append(_text(width - 15, bottom + 30, unit, anchor="end"))
    return _svg(width, bottom + 38, parts, title)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _rule(x: float, y1: float, y2: float, ink: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{ink}"/>'


def _whisker(x: Callable[[float], float], y: float, mean: float, half: float, outcome: str) -> list[str]:
    if not (np.isfinite(mean) and np.isfinite(half)):
        return []
    ink = BY_OUTCOME.get(outcome, "#777777")
    ends = f'x1="{x(mean - half):.1f}" x2="{x(mean + half):.1f}" y1="{y}" y2="{y}"'
    dot = f'<circle cx="{x(mean):.1f}" cy="{y}" r="3.5" fill="{ink}"/>'
    return [f'<line {ends} stroke="{ink}" stroke-width="2"/>', dot]


def lines(title: str, series: Sequence[Line], *, across: str, up: str, log: bool = False) -> str:
    """Means with 95 % intervals over an axis, one line per arm."""
    width, height, left, right, top, foot = 620, 345, 60, 160, 50, 48
    at = sorted({x for line in series for x, _, _ in line.points})
    scale = np.log if log else (lambda value: value)
    x0, x1 = float(scale(at[0])), float(scale(at[-1]))
    ends = [m + s * h for line in series for _, m, h in line.points for s in (-1, 1) if np.isfinite(h)]
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return left + (float(scale(value)) - x0) / ((x1 - x0) or 1.0) * (width - left - right)

    def y(value: float) -> float:
        return height - foot - (value - low) / (high - low) * (height - foot - top)

    parts = [_text(10, 18, title, bold=True)]
    for t in ticks(low, high):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#e5e5e5"/>')
        parts.append(_text(left - 6, y(t) + 4, f"{t:g}", anchor="end"))
    parts += [_text(x(t), height - foot + 16, f"{t:g}", anchor="middle") for t in at]
    parts.append(_text((left + width - right) / 2, height - 10, across, anchor="middle"))
    parts.append(_text(left, top - 4, up))
    for k, line in enumerate(series):
        ink = COLOURS[k % len(COLOURS)]
        path = " ".join(f"{x(a):.1f},{y(m):.1f}" for a, m, _ in line.points)
        dash = ' stroke-dasharray="5 3"' if k >= len(COLOURS) else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"{dash}/>')
        for a, m, h in line.points:
            if np.isfinite(h):
                parts.append(
                    f'<line x1="{x(a):.1f}" x2="{x(a):.1f}" y1="{y(m - h):.1f}" y2="{y(m + h):.1f}" stroke="{ink}"/>'
                )
            parts.append(f'<circle cx="{x(a):.1f}" cy="{y(m):.1f}" r="3" fill="{ink}"/>')
        parts.append(f'<rect x="{width - right + 12}" y="{top + 18 * k}" width="12" height="3" fill="{ink}"/>')
        parts.append(_text(width - right + 30, top + 18 * k + 6, line.label))
    return _svg(width, height, parts, title)


def grid(title: str, rows: Sequence[str], columns: Sequence[str], value: Mapping[tuple[str, str], float]) -> str:
    """A table of numbers, darker where larger."""
    left, top, wide, row = 130, 56, 84, 26
    known = [v for v in value.values() if np.isfinite(v)]
    low, high = min(known), max(known)
    parts = [_text(10, 18, title, bold=True)]
    parts += [_text(left + wide * j + wide / 2, top - 8, name, anchor="middle") for j, name in enumerate(columns)]
    for i, name in enumerate(rows):
        parts.append(_text(left - 8, top + row * i + 17, name, anchor="end"))
        for j, other in enumerate(columns):
            v = value.get((name, other), np.nan)
            if not np.isfinite(v):
                continue
            shade = (v - low) / ((high - low) or 1.0)
            ink = f"rgb({255 - int(150 * shade)},{255 - int(110 * shade)},{255 - int(50 * shade)})"
            parts.append(
                f'<rect x="{left + wide * j}" y="{top + row * i}" width="{wide - 2}" height="{row - 2}" fill="{ink}"/>'
            )
            parts.append(_text(left + wide * j + wide / 2, top + row * i + 17, f"{v:.2f}", anchor="middle"))
    return _svg(left + wide * len(columns) + 10, top + row * len(rows) + 10, parts, title)
