"""A run folder: whole-prompt shards of Parquet, atomic writes, a manifest, a ledger, a journal.

    DIR/
      manifest.json                      versions, seeds, settings, hashes of inputs; one entry per stage
      ledger.json                        rows in, kept and dropped by reason, stage by stage
      stages/<stage>/stage.json          the fingerprint of what made these shards
      stages/<stage>/<table>-00000-of-00008.parquet
      stages/.previous/<stage>-<fingerprint>/    what an older recipe made; taken back when the recipe goes back

Nothing is ever visible under its final name before it is whole: temporary file, fsync, rename.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from pairwright.errors import DataError, StoreError
from pairwright.tables import DROPPED, TABLES, Table, canonical_json, conform, empty


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it, after fsync, when the block ends well, else deleted."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, pl.exceptions.ComputeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot write {path}: {_why(error)}; what was finished before is kept, run again") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second run out of a folder; the lock goes with the process that holds it."""
    path = folder / "stages" / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {_why(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"another run works in {folder}; wait for it, or choose another --out") from error
        yield


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _why(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number is not None:
        hint = {errno.EACCES: " (no write permission)", errno.ENOSPC: " (free some room)"}.get(number, "")
        return f"{os.strerror(number)}{hint}"
    return str(error).splitlines()[0]


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n")


def write_parquet(path: Path, data: pl.DataFrame) -> None:
    with atomic(path) as temporary:
        data.write_parquet(temporary, compression="zstd", statistics=True)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object, or {} where there is no file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {_why(error)}; delete it to start that part afresh") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} does not hold a JSON object; delete it to start that part afresh")
    return value


def read_table(path: Path, table: Table) -> pl.DataFrame:
    """A Parquet file of this table, checked."""
    try:
        data = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {_why(error)}; delete it, and the stage makes it again"
        ) from error
    return conform(data, table, where=str(path))


def file_hash(path: Path) -> str:
    """sha256 of the bytes of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {_why(error)}") from error


def digest(value: object) -> str:
    """16 hex digits that name a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def shard_of(prompt_id: str, shards: int) -> int:
    """The shard of a prompt: crc32 of its id, so that it does not depend on order, machine or version."""
    return zlib.crc32(prompt_id.encode("utf-8", "surrogatepass")) % shards


class Stage:
    """The folder of one stage of a run."""

    def __init__(self, folder: Path, name: str, shards: int, tables: Iterable[Table]) -> None:
        self.folder, self.name, self.shards = folder / "stages" / name, name, shards
        self.tables = {table.name: table for table in (*tables, DROPPED)}

    def path(self, table: str, shard: int) -> Path:
        return self.folder / f"{table}-{shard:05d}-of-{self.shards:05d}.parquet"

    @property
    def record(self) -> dict[str, object]:
        """What stage.json says: the fingerprint and all that it stands for."""
        return self.record_of(self.folder)

    @staticmethod
    def record_of(folder: Path) -> dict[str, object]:
        return read_json(folder / "stage.json")

    def finished(self, shard: int) -> bool:
        """All tables of the shard are there."""
        return all(self.path(table, shard).exists() for table in self.tables)

    def open(self, fingerprint: str, note: Mapping[str, object]) -> bool:
        """Makes the folder that of `fingerprint`: another one's shards step aside, an earlier one's come back.

        True when the folder was not that already. Shards that no stage.json vouches for step aside too.
        """
        held = self.record.get("fingerprint")
        if held == fingerprint:
            return False
        aside = self.folder.parent / ".previous"
        try:
            if self.folder.exists():
                aside.mkdir(parents=True, exist_ok=True)
                place = aside / f"{self.name}-{held or 'unknown'}"
                shutil.rmtree(place, ignore_errors=True)
                self.folder.rename(place)
            if (back := aside / f"{self.name}-{fingerprint}").exists():
                back.rename(self.folder)
        except OSError as error:
            raise StoreError(f"cannot make room in {self.folder.parent}: {_why(error)}") from error
        write_json(self.folder / "stage.json", {"fingerprint": fingerprint, **note})
        return True

    def discard(self, shards: Iterable[int]) -> None:
        """Makes these shards unfinished."""
        for shard in shards:
            for table in self.tables:
                self.path(table, shard).unlink(missing_ok=True)

    def note(self, **facts: object) -> None:
        write_json(self.folder / "stage.json", {**self.record, **facts})

    def earlier(self) -> list[Path]:
        """Folders of this stage under other fingerprints, newest first."""
        aside = self.folder.parent / ".previous"
        found = [folder for folder in aside.glob(f"{self.name}-*") if folder.is_dir()]
        return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)

    def write(self, shard: int, frames: Mapping[str, pl.DataFrame]) -> None:
        """One finished shard: every table of the stage, `dropped` last."""
        for name, table in self.tables.items():
            data = conform(frames.get(name, empty(table)), table, where=f"stage {self.name}, shard {shard}")
            write_parquet(self.path(name, shard), data)

    def read(self, table: str, shard: int | None = None) -> pl.DataFrame:
        """One shard of a table, or all of them."""
        if shard is not None:
            return read_table(self.path(table, shard), self.tables[table])
        parts = [self.read(table, each) for each in range(self.shards)]
        return pl.concat(parts) if parts else empty(TABLES[table])


class Journal:
    """Records that are safe as soon as they are written, one JSON line each; a torn last line is told apart."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[list[dict[str, object]], int]:
        """The whole records, and how many half-written lines were found and set aside."""
        if not self.path.exists():
            return [], 0
        records, torn = [], []
        for line in self.path.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                torn.append(line)
                continue
            if isinstance(record, dict):
                records.append(record)
        if torn:
            self.path.with_suffix(".torn").write_bytes(b"\n".join(torn))
        return records, len(torn)

    @contextlib.contextmanager
    def writing(self) -> Iterator["JournalWriter"]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() and not _ends_with_newline(self.path):
                    file.write(b"\n")  # after a torn line
                yield JournalWriter(file)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot write {self.path}: {_why(error)}; what was drawn before is kept") from error

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


class JournalWriter:
    """Appends records; each is handed to the operating system at once."""

    def __init__(self, file: "object") -> None:
        self._file = file

    def append(self, record: Mapping[str, object]) -> None:
        self._file.write(canonical_json(record).encode("utf-8", "surrogatepass") + b"\n")  # type: ignore[attr-defined]
        self._file.flush()  # type: ignore[attr-defined]
