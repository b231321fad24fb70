"""The shapes that values have, by which layouts are told apart."""

HH = frozenset({"dialogue"})  # text that begins with Human:
TEXT = frozenset({"text", "dialogue"})
NUMBER = frozenset({"number", "text", "record"})  # a score may be text, or {judge: score}
CHAT = frozenset({"messages"})  # [{role, content}]
TURNS = frozenset({"turns"})  # [{from, value}]
RECORD = frozenset({"record"})
DICTS = frozenset({"records"})
TEXTS = frozenset({"texts"})
NUMBERS = frozenset({"numbers", "texts"})


def shape(value: object) -> str | None:
    """The shape of one value; null says nothing."""
    if value is None:
        return None
    if isinstance(value, str):
        return "dialogue" if value.lstrip().startswith("Human:") else "text"
    if isinstance(value, bool | int | float):
        return "number"
    if isinstance(value, dict):
        return "record"
    if not isinstance(value, list):
        return type(value).__name__
    return _list_shape([each for each in value if each is not None])


def _list_shape(values: list[object]) -> str | None:
    if not values:
        return None
    if all(isinstance(each, dict) for each in values):
        keys = set.intersection(*(set(each) for each in values))  # type: ignore[call-overload]
        return "messages" if {"role", "content"} <= keys else "turns" if {"from", "value"} <= keys else "records"
    if all(isinstance(each, str) for each in values):
        return "texts"
    return "numbers" if any(isinstance(each, int | float) for each in values) else "list"
