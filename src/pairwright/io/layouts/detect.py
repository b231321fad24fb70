"""Which layout is this? Told from the columns and the shapes of the first rows, never from a file's name."""

from collections.abc import Collection, Mapping, Sequence

from pairwright.errors import DataError
from pairwright.io.layouts.catalogue import LAYOUTS
from pairwright.io.layouts.model import Layout, Row
from pairwright.io.layouts.shapes import shape

SAMPLE = 50  # rows that are looked at


def detect(
    sample: Sequence[Row], columns: Collection[str], *, known: Mapping[str, Layout] = LAYOUTS, where: str = "these rows"
) -> Layout:
    """The layout that asks for most and finds it. DataError when none fits, or when two fit equally well."""
    shapes = {name: {s for row in sample[:SAMPLE] if (s := shape(row.get(name)))} for name in columns}
    lacks = {name: _lacks(layout, shapes) for name, layout in known.items()}
    fitting = sorted((name for name, lack in lacks.items() if not lack), key=lambda name: -_asks(known[name]))
    if not fitting:
        raise DataError(
            f"{where}: no known layout has the columns {', '.join(columns) or '(none)'}; {_nearest(known, lacks)}"
        )
    if len(fitting) > 1 and _asks(known[fitting[0]]) == _asks(known[fitting[1]]):
        raise DataError(f"{where}: this may be {fitting[0]} or {fitting[1]}; say which with --layout")
    return known[fitting[0]]


def _asks(layout: Layout) -> float:
    """How much a layout asks for: its columns, and among as many columns the narrower shapes."""
    return sum(1 + 0.1 / len(shapes) for shapes in layout.needs.values())


def _lacks(layout: Layout, shapes: Mapping[str, set[str]]) -> list[str]:
    missing = [f"has a column {name}" for name in layout.without if name in shapes]
    for names, wanted in layout.needs.items():
        there = [name for name in names.split("|") if name in shapes]
        if not there:
            missing.append(f"lacks {names.replace('|', ' or ')}")
        missing += [
            f"{name} is {_list(shapes[name])}, not {_list(wanted)}" for name in there if not shapes[name] <= wanted
        ]
    return missing


def _weight(lack: str) -> float:
    """A column of another shape is nearer than a column that is not there."""
    return 1.0 if lack.startswith("lacks") else 0.5


def _list(shapes: Collection[str]) -> str:
    return " or ".join(sorted(set(shapes) - {"dialogue"} or shapes))


def _nearest(known: Mapping[str, Layout], lacks: Mapping[str, list[str]]) -> str:
    order = sorted(known, key=lambda name: (sum(_weight(lack) for lack in lacks[name]), -len(known[name].needs)))
    told = "; ".join(f"{name} ({', '.join(lacks[name])})" for name in order[:3])
    return f"nearest: {told}. Name one with --layout, or rename the columns"
