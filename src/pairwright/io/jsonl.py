"""JSON lines, typed: every value is checked against its declared type, and an error names the line.

Readers that infer types turn a number into text without a word; this one refuses it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pairwright.errors import DataError, StoreError

T = TypeVar("T")


def read_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """(line number from 1, value) of every line that is not blank; NaN and Infinity are read as Python writes them."""
    decoder = msgspec.json.Decoder(kind)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _decode(decoder, line, kind, f"{path}, line {number}")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _decode(decoder: "msgspec.json.Decoder[T]", line: bytes, kind: type[T], where: str) -> T:
    try:
        if b"\\ud" in line.lower():  # an escape of half a character: no text can hold it
            json.dumps(json.loads(line), ensure_ascii=False).encode()
        return decoder.decode(line)
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half of a character (a lone surrogate); take it out") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep; take it out") from error
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}; mend that line or leave it out") from error
    except msgspec.DecodeError:
        pass  # perhaps a NaN, which JSON does not have and Python writes
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from error
    try:
        return msgspec.convert(json.loads(line), kind)
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from error
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}; mend that line or leave it out") from error
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}; each line must hold one object") from error


def _not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{where} is not UTF-8 text (byte {error.start} of the line); convert the file to UTF-8")


def field_name(name: str) -> str:
    """A name as an attribute: "rater:gpt-4" is none."""
    return name if name.isidentifier() else "x_" + name.encode().hex()


def struct_of(name: str, fields: dict[str, tuple[Any, str]], obligatory: frozenset[str]) -> type[msgspec.Struct]:
    """A msgspec type with these fields: {field: (type, name in the file)}. Other keys of a line are passed over."""
    ordered = sorted(fields.items(), key=lambda item: item[0] not in obligatory)
    members = [
        (field_name(field), kind) if field in obligatory else (field_name(field), kind, None)
        for field, (kind, _) in ordered
    ]
    rename = {field_name(field): key for field, (_, key) in fields.items()}
    return msgspec.defstruct(name, members, rename=rename)
