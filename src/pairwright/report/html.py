"""Elements of a page: text that is markup, text that is not, numbers, tables."""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping
from importlib import resources

NONE = "–"  # a number that does not exist


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def el(name: str, *inside: object, **attributes: object) -> Html:
    """One element. Whatever is not Html is escaped; attributes that are None are left out; class_ is class."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{told}>{join(inside)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def escape(value: object) -> Html:
    """Characters that HTML cannot hold (half surrogates, NUL) become U+FFFD."""
    text = str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
    return Html(html.escape(text))


def template(name: str) -> str:
    return resources.files("pairwright.report").joinpath(name).read_text("utf-8")


def source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def number(value: float | None) -> str:
    """Four significant digits; whole numbers and large ones in full, with commas."""
    if value is None:
        return NONE
    whole = isinstance(value, int) or 1e4 <= abs(value) < 1e15
    return (f"{value:,.0f}" if whole else f"{value:.4g}").replace("-", "−")


def signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.2f}".replace("-", "−")


def share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def none(text: str) -> Html:
    return el("p", text, class_="none")


def terms(rows: Iterable[tuple[object, object]], class_: str = "facts") -> Html:
    return el("dl", *(el("div", el("dt", key), el("dd", value)) for key, value in rows), class_=class_)


def table(caption: str, head: Iterable[object], rows: Iterable[Html]) -> Html:
    """In a box of its own that scrolls, also by keyboard, when the page is narrower than the table."""
    titles = el("thead", el("tr", *(cell if isinstance(cell, Html) else el("th", cell, scope="col") for cell in head)))
    table = el("table", el("caption", caption), titles, el("tbody", *rows))
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def cell(value: object, name: str = "td", **attributes: object) -> Html:
    return el(name, value, class_="n", **attributes)


def reasons(counts: Mapping[str, int]) -> Html:
    """Reasons with their counts, the most frequent first."""
    if not counts:
        return el("span", NONE, class_="faint")
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return el("ul", *(el("li", el("b", number(n)), " ", reason) for reason, n in ordered), class_="reasons")


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def standalone(title: str, sections: Iterable[tuple[str, Html]]) -> str:
    """A page without a script: it loads nothing, and its one style is named by hash."""
    css = template("page.css")
    policy = f"default-src 'none'; style-src {source_hash(css)}; base-uri 'none'; form-action 'none'"
    inside = "".join(el("section", el("h2", name), content) for name, content in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n"
        f"<header>{el('h1', title, dir='auto')}</header>\n<main>{inside}</main>\n</body>\n</html>\n"
    )
