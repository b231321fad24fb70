"""Pairs as TRL *explicit conversational* rows, the one form that TRL cannot misread, and the folder that holds them.

DIR/pairs.parquet (and .jsonl)    prompt, chosen, rejected as message lists + scores
DIR/candidates.parquet            every response with its scores (a second config of the same data set)
DIR/dropped.parquet               ids, stage, reason
DIR/README.md                     the data set card; `datasets.load_dataset("DIR")` reads its header
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pairwright.errors import DataError
from pairwright.store import atomic
from pairwright.tables import MESSAGES

ROWS = {
    "prompt": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "score_chosen": pl.Float64(),
    "score_rejected": pl.Float64(),
    "margin": pl.Float64(),  # signed
    "weight": pl.Float64(),  # 1 until a selection says otherwise
    "prompt_id": pl.String(),
    "chosen_model": pl.String(),
    "rejected_model": pl.String(),
    "meta": pl.String(),  # JSON: rule, ids, z of both sides, hit_extreme
}
_META = ("rule", "chosen_id", "rejected_id", "z_chosen", "z_rejected", "hit_extreme")


def trl_rows(pairs: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """Joins the texts of `candidates` (prompt, response, source) to `pairs` by ids, for the rows that are written."""
    source = pl.col("source") if "source" in candidates.columns else pl.lit(None, pl.String)
    said = candidates.select("prompt_id", "response_id", "prompt", "response", source=source)
    key = ["prompt_id", "response_id"]
    joined = pairs.join(said, left_on=["prompt_id", "chosen_id"], right_on=key, how="left", maintain_order="left")
    joined = joined.join(
        said.select(*key, "response", "source"),
        left_on=["prompt_id", "rejected_id"],
        right_on=key,
        how="left",
        maintain_order="left",
        suffix="_rejected",
    )
    if (
        joined.height != pairs.height
        or joined.select(pl.any_horizontal(pl.col("response", "response_rejected").is_null()).any()).item()
    ):
        raise DataError("a pair names a response that the candidates do not hold")
    return joined.select(
        "prompt",
        chosen=_turn("response"),
        rejected=_turn("response_rejected"),
        score_chosen="score_chosen",
        score_rejected="score_rejected",
        margin="margin",
        weight=pl.lit(1.0),
        prompt_id=pl.col("prompt_id").cast(pl.String),
        chosen_model="source",
        rejected_model="source_rejected",
        meta=pl.struct(_META).struct.json_encode(),
    )


def _turn(column: str) -> pl.Expr:
    return pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.col(column)))


HELD_BYTES = 192 * 2**20  # rows kept in memory before a piece is written


class Parts:
    """One Parquet file out of batches: small ones are held in memory, pieces of `HELD_BYTES` go to a hidden folder.

    `close` makes them one file under its own name.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.with_name(f".{path.name}.parts")
        self.held: list[pl.DataFrame] = []
        self.size = self.count = 0
        for old in self.folder.glob("*.parquet"):
            old.unlink()

    def add(self, rows: pl.DataFrame) -> None:
        if rows.height:
            self.held.append(rows)
            self.size += int(rows.estimated_size())
        if self.size > HELD_BYTES:
            with atomic(self.folder / f"{self.count:06d}.parquet") as temporary:
                pl.concat(self.held).write_parquet(temporary, compression="zstd", compression_level=1)
            self.held, self.size, self.count = [], 0, self.count + 1

    def close(self, schema: "dict[str, pl.DataType]") -> None:
        """The rows as one file; an empty file with these columns when there were none."""
        rest = pl.concat(self.held) if self.held else pl.DataFrame(schema=schema)
        with atomic(self.path) as temporary:
            if self.count:
                pieces = [pl.scan_parquet(piece) for piece in sorted(self.folder.glob("*.parquet"))]
                whole = pl.concat([*pieces, *([rest.lazy()] if rest.height else [])])
                whole.sink_parquet(temporary, compression="zstd", compression_level=1)
            else:
                rest.write_parquet(temporary, compression="zstd", compression_level=1)
        self.held = []
        for old in self.folder.glob("*.parquet"):
            old.unlink()
        if self.folder.exists():
            self.folder.rmdir()


def write_jsonl(parquet: Path, path: Path) -> None:
    """The rows of a Parquet file as JSON lines."""
    with atomic(path) as temporary:
        pl.scan_parquet(parquet).sink_ndjson(temporary)


def card(*, name: str, rows: int, configs: Sequence[str], summary: str, ledger: str, settings: str) -> str:
    """The data set card. Its header makes `load_dataset` read pairs.parquet as the default config."""
    size = next((label for limit, label in _SIZES if rows < limit), "n>10M")
    files = {"pairs": "pairs.parquet", "candidates": "candidates.parquet"}
    listed = "".join(
        f"- config_name: {config}\n  data_files: {files[config]}\n" + ("  default: true\n" if config == "pairs" else "")
        for config in configs
    )
    return f"""---
tags:
- preference
- dpo
- trl
- pairwright
size_categories:
- {size}
configs:
{listed}---

# {name}

{summary}

Rows are TRL *explicit conversational* rows: `prompt`, `chosen`, `rejected` as message lists. `score_chosen`,
`score_rejected` and the signed `margin` are those of the rater that decided the pair. `margin` and `weight` have no
effect in TRL's own `DPOTrainer`, which drops columns that it does not know.

```python
from datasets import load_dataset
pairs = load_dataset("PATH_OF_THIS_FOLDER", "pairs", split="train")
```

## What happened to every row

{ledger}

## Settings

```json
{settings}
```

The rule that takes the response nearest to mean + k sigma is Pairwright's reading of Xiao et al. 2025 (arXiv
2502.16825), whose pair step is not published as code.
"""


_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
