"""One row in, one row out, for any layout; what the layout itself does not know is done here.

    read_row     scores by any of the known names, ids, models, margin, `meta`; then every column that is left over
    write_row    the layout's own columns; what it has no place for under the house names and in one JSON column `meta`

Reading a row notes what a plain writing of it would get wrong (`as_read`), so that writing the same layout again gives
the same row. Writing another layout reads its own row back and refuses what does not come back the same.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from pairwright.errors import DataError
from pairwright.io.layouts.convey import as_candidate, as_json, picked_texts, to_candidates, to_pair
from pairwright.io.layouts.model import (
    DEFAULT,
    FIELDS,
    CandidateRow,
    Group,
    Layout,
    Lost,
    Options,
    PairRow,
    Picked,
    Refused,
    Row,
    Sides,
)
from pairwright.io.layouts.ratings import find_scores, parse_rating, settle_margin

META = ("pairwright_meta", "meta")  # the JSON column; the first where a row has a `meta` of its own
HOUSE = "pairwright"  # the key inside it that is ours
_NAN = "$float"
AnyRow = PairRow | CandidateRow


def read_row(layout: Layout, row: Row, options: Options = DEFAULT) -> AnyRow | Lost:
    """A row of this layout as a pair or as candidates, or the reason why it is neither. `row` is not changed."""
    try:
        read = _bare(layout, row, options)
        before = {name: kept for name, kept in read.as_read.items() if name != layout.name}
        read = replace(read, as_read=before)
        if (kept := _difference(layout, row, read, options)) is not None:
            read = replace(read, as_read={**before, layout.name: kept})
    except Refused as refused:
        return refused.lost
    return read


def write_row(layout: Layout, row: AnyRow, options: Options = DEFAULT, *, lossy: bool = False) -> Row | Lost:
    """The row in this layout. `lossy` writes the layout's own columns and nothing else."""
    try:
        shaped = _shaped(layout, row)
        if lossy:
            written = layout.write(shaped, options)
            if isinstance(row, PairRow) and isinstance(shaped, CandidateRow):
                _check_label(layout, shaped, written, options)
            return written
        kept = shaped.as_read.get(layout.name, {})
        if kept and kept["of"] == _digest(shaped):
            return _exact(layout, shaped, kept, options)
        return _plain(layout, shaped, kept.get("columns", ()), options)
    except Refused as refused:
        return refused.lost


def _shaped(layout: Layout, row: AnyRow) -> AnyRow:
    if layout.kind == "pairs":
        return to_pair(row) if isinstance(row, CandidateRow) else row
    return to_candidates(row) if isinstance(row, PairRow) else row


def _check_label(layout: Layout, row: CandidateRow, written: Row, options: Options) -> None:
    """A pair among candidates is told by their scores, or by the layout itself; without either it is no label."""
    back = _bare(layout, written, replace(options, score=None, judge=None))
    assert isinstance(back, CandidateRow)  # of the layout's kind
    if picked_texts(back) != picked_texts(row):
        raise Refused("label_has_no_place", f"{layout.name} would not tell which response is the better one")


def left_out(layout: Layout, row: AnyRow, written: Row) -> list[str]:
    """The names of what a lossy writing leaves behind."""
    whole = write_row(layout, row)
    return [] if isinstance(whole, Lost) else sorted(set(whole) - set(written))


# reading


def _bare(layout: Layout, row: Row, options: Options) -> AnyRow:
    parsed = layout.read(row, options)
    names = {field: layout.own.get(field, field) for field in FIELDS}
    rest = {name: value for name, value in row.items() if name not in parsed.used}
    meta, house = _take_meta(rest, set(names.values()))
    if "prompt" in house:
        parsed = parsed._replace(prompt=house["prompt"])
    if isinstance(parsed, Group):
        return _candidates(layout, parsed, names, rest, meta, house)
    return _pair(layout, parsed, names, row, rest, meta, house, options)


def _pair(
    layout: Layout, sides: Sides, names: dict[str, str], row: Row, rest: Row, meta: Row, house: Row, options: Options
) -> PairRow:
    facts, notes = dict(sides.facts), sides.notes
    if "score_chosen" not in facts:
        own = (names["score_chosen"], names["score_rejected"])
        scores = find_scores(row, own, options)
        facts |= {"score_chosen": scores.chosen, "score_rejected": scores.rejected}
        notes += scores.notes
        for name in {*own, "score_chosen", "score_rejected"}:
            if row.get(name) is None or (name in scores.columns and not isinstance(row[name], dict)):
                rest.pop(name, None)
        given = facts["margin"] if "margin" in facts else rest.pop(names["margin"], None)
        facts["margin"], told = settle_margin(given, scores.chosen, scores.rejected)
        notes += told
        if told and "margin" not in sides.facts:
            rest[names["margin"]] = given
    facts.setdefault("weight", _number(rest, names["weight"]))
    for field in ("prompt_id", "chosen_model", "rejected_model"):
        facts.setdefault(field, _string(rest, names[field]))
    facts |= house.get("facts", {})
    scored = facts["score_chosen"] is not None or facts["score_rejected"] is not None
    return PairRow(
        sides.prompt,
        sides.chosen,
        sides.rejected,
        **facts,
        meta={**rest, **meta},
        score_kind=house.get("score_kind", layout.score_kind if scored else None),
        as_read=house.get("as_read", {}),
        notes=notes,
    )


def _candidates(layout: Layout, group: Group, names: dict[str, str], rest: Row, meta: Row, house: Row) -> CandidateRow:
    prompt_id = _string(rest, names["prompt_id"])
    candidates, pair = group.candidates, house.get("pair")
    if told := house.get("candidates"):
        if len(told) != len(candidates):
            raise Refused("meta_does_not_fit", f"{len(candidates)} responses, {len(told)} in the meta")
        candidates = [replace(each, **_fields(held)) for each, held in zip(candidates, told, strict=True)]
    if pair and not all(0 <= at < len(candidates) for at in pair[:2]):
        raise Refused("meta_does_not_fit", f"{len(candidates)} responses, the meta pairs {pair[0]} with {pair[1]}")
    scored = any(each.score is not None for each in candidates)
    return CandidateRow(
        group.prompt,
        candidates,
        prompt_id=house.get("prompt_id", prompt_id),
        pair=Picked(*pair) if pair else group.pair,
        meta={**rest, **meta},
        score_kind=house.get("score_kind", layout.score_kind if scored else None),
        as_read=house.get("as_read", {}),
        notes=group.notes,
    )


def _fields(held: Row) -> Row:
    """The fields of a candidate but its text, out of our part of the meta."""
    whole = as_candidate(held)
    return {name: getattr(whole, name) for name in ("source", "score", "scores", "reason", "gaps", "extra")}


def _number(row: Row, name: str) -> float | None:
    value, reason = parse_rating(row.get(name))
    if reason in (None, "rating_missing"):
        row.pop(name, None)
    return value


def _string(row: Row, name: str) -> str | None:
    value = row.get(name)
    if value is None or isinstance(value, str | int):
        row.pop(name, None)
        return None if value is None else str(value)
    return None


def _take_meta(rest: Row, fields: set[str]) -> tuple[Row, Row]:
    """The JSON column taken out of `rest`: its content and our part of it. A `meta` of another kind stays a column."""
    columns = set(rest) - fields
    for name in META:
        held = _json_object(rest.get(name))
        if held is not None:
            house = held.pop(HOUSE, {})
            if isinstance(house, dict) and not set(held) & (columns - {name}):
                del rest[name]
                return held, house
    if "meta" in rest and rest["meta"] is None:
        del rest["meta"]
    return {}, {}


def begins_group(row: Row) -> bool:
    """Our part of the meta stands in the first of the rows that one prompt was written as."""
    held = (row.get(name) for name in META)
    return any(isinstance(each, str) and f'"{HOUSE}"' in each and HOUSE in (_json_object(each) or {}) for each in held)


def begin_group(row: Row) -> Row:
    """The row so that `begins_group` knows it."""
    if begins_group(row):
        return row
    free = META[1] if row.get(META[1]) is None else META[0]
    name = next((name for name in META if _json_object(row.get(name)) is not None), free)
    return {**row, name: dump({**(_json_object(row.get(name)) or {}), HOUSE: {"again": True}})}


def _json_object(value: object) -> Row | None:
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return None
    try:
        held = json.loads(value, object_hook=_revive if _NAN in value else None)
    except ValueError:
        return None
    return held if isinstance(held, dict) else None


def _revive(held: Row) -> Any:
    return float(held[_NAN]) if set(held) == {_NAN} else held


# writing


def _own(layout: Layout, row: AnyRow, options: Options) -> Row:
    """The layout's own columns, and house names for the fields that it has no name for."""
    out = layout.write(row, options)
    if isinstance(row, PairRow):
        _add_fields(layout, row, out)
    elif row.prompt_id is not None:
        out[layout.own.get("prompt_id", "prompt_id")] = row.prompt_id
    return out


def _plain(layout: Layout, row: AnyRow, kept: Sequence[str], options: Options, source: Row | None = None) -> Row:
    """The layout's own columns, the keys `kept` of the meta as columns, and what is left as one JSON column.

    `source` is the row that `row` was read from: when the own columns are those of it, they need no reading back.
    """
    own = _own(layout, row, options)
    known = source is not None and not source.keys() & set(META) and all(source.get(name) == own[name] for name in own)
    house = {} if known else _not_told(layout, row, own, options)
    columns = [name for name in kept if name in row.meta]
    out = {**own, **{name: row.meta[name] for name in columns}}
    shown = {*columns, *_shown(layout, row, own)}
    hidden = {key: held for key, held in row.meta.items() if key not in shown}
    if row.score_kind != layout.score_kind and _scored(row):  # null too: nobody said what this score is
        house = {"score_kind": row.score_kind, **house}
    if others := {name: told for name, told in row.as_read.items() if name != layout.name and not _only_nulls(told)}:
        house = {**house, "as_read": others}
    if house:
        hidden[HOUSE] = house
    if hidden:
        out[META[0] if "meta" in columns else META[1]] = dump(hidden)
    return out


def _plain_or_nothing(
    layout: Layout, row: AnyRow, columns: Sequence[str], options: Options, source: Row | None = None
) -> Row:
    try:
        return _plain(layout, row, columns, options, source)
    except Refused:  # a layout may read more than it writes
        return {}


def _only_nulls(kept: Mapping[str, Any]) -> bool:
    """All that was special were nulls in place of absent columns, as Parquet has them: not worth a word elsewhere."""
    return not {"columns", "unset"} & kept.keys() and all(held is None for held in kept["set"].values())


def _shown(layout: Layout, row: AnyRow, own: Row) -> set[str]:
    """Keys of the meta that the layout has a column of its own for, and that would be read back from it."""
    if not (keys := layout.takes & row.meta.keys()):
        return set()
    back = _bare(layout, {**own, **dict.fromkeys(META)}, DEFAULT).meta
    return {key for key in keys if key in back and back[key] == row.meta[key]}


def _scored(row: AnyRow) -> bool:
    if isinstance(row, CandidateRow):
        return any(each.score is not None for each in row.candidates)
    return row.score_chosen is not None or row.score_rejected is not None


def _add_fields(layout: Layout, row: PairRow, out: Row) -> None:
    for field in FIELDS:
        value = getattr(row, field)
        if field in layout.carries:
            continue
        if field in layout.own:
            out[layout.own[field]] = value
        elif value is not None and (field != "margin" or value != _gap(row)):
            out[field] = value


def _gap(row: PairRow) -> float | None:
    if row.score_chosen is None or row.score_rejected is None:
        return None
    return row.score_chosen - row.score_rejected


def _not_told(layout: Layout, row: AnyRow, own: Row, options: Options) -> Row:
    """What reading our own columns back does not give: kept as ours where it is a value, refused where it is a text."""
    back = _bare(layout, own, replace(options, score=None, judge=None))
    house: Row = {}
    if back.prompt != row.prompt:
        if [(t["role"], t["content"].split()) for t in back.prompt] != [
            (t["role"], t["content"].split()) for t in row.prompt
        ]:
            raise Refused("does_not_read_back", f"the prompt would come back from {layout.name} as another")
        house["prompt"] = row.prompt
    if isinstance(row, CandidateRow) and isinstance(back, CandidateRow):
        if [each.text for each in back.candidates] != [each.text for each in row.candidates]:
            raise Refused("does_not_read_back", f"the responses would come back from {layout.name} as others")
        if back.candidates != row.candidates:
            house["candidates"] = [{**as_json(each), "text": None} for each in row.candidates]
        if back.pair != row.pair and row.pair is not None:
            house["pair"] = list(row.pair)
        return house
    assert isinstance(row, PairRow) and isinstance(back, PairRow)  # both are of the layout's kind
    if (back.chosen, back.rejected) != (row.chosen, row.rejected):
        raise Refused("does_not_read_back", f"an answer would come back from {layout.name} as another")
    facts = {name: getattr(row, name) for name in FIELDS if getattr(row, name) != getattr(back, name)}
    return {**house, "facts": facts} if facts else house


def _difference(layout: Layout, row: Row, read: AnyRow, options: Options) -> Row | None:
    """What `_exact` needs to make `row` out of `read`; None when plain writing does it."""
    columns = [name for name in row if name in read.meta and name not in layout.takes]
    plain = _plain_or_nothing(layout, read, columns, options, row)
    changed = {name: value for name, value in row.items() if name not in plain or not _same(plain[name], value)}
    absent = [name for name in plain if name not in row]
    if not (columns or changed or absent):
        return None
    kept: Row = {"of": _digest(read)}
    kept |= {"columns": columns} if columns else {}
    kept |= {"set": changed} if changed else {}
    kept |= {"unset": absent} if absent else {}
    return kept


def _exact(layout: Layout, row: AnyRow, kept: Mapping[str, Any], options: Options) -> Row:
    """The row as it was read. What was noted of layouts that were read later is left out: that row did not have it."""
    order = list(row.as_read)
    earlier = {name: row.as_read[name] for name in order[: order.index(layout.name)]}
    out = _plain_or_nothing(layout, replace(row, as_read=earlier), kept.get("columns", ()), options)
    out |= kept.get("set", {})
    for name in kept.get("unset", ()):
        out.pop(name, None)
    return out


def _same(left: object, right: object) -> bool:
    """Equal, and whole numbers where whole numbers were, at any depth."""
    if left is right:
        return True
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(held, right[key]) for key, held in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right and type(left) is type(right)


def _digest(row: AnyRow) -> str:
    return blake2b(repr(row.content).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def dump(value: Row) -> str:
    """JSON text of a meta; NaN and infinities, which JSON does not have, as {"$float": "nan"}."""
    for form in (value, _tagged(value)):
        with contextlib.suppress(TypeError, ValueError):
            return json.dumps(form, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    column = next((name for name, held in value.items() if not _fits(held)), "?")
    raise DataError(f"column {column} holds what JSON cannot hold; leave it out or pass --lossy")


def _fits(value: object) -> bool:
    try:
        json.dumps(_tagged(value))
    except (TypeError, ValueError):
        return False
    return True


def _tagged(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_NAN: repr(value)}
    if isinstance(value, dict):
        return {key: _tagged(held) for key, held in value.items()}
    return [_tagged(held) for held in value] if isinstance(value, list) else value
