"""The clean stage of a run, and of a file: evidence gathered, results written, texts joined for the page."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pairwright import __version__
from pairwright.clean.evidence import RATED, Cleaning, Evidence
from pairwright.clean.run import Result, clean
from pairwright.errors import ConfigError, DataError
from pairwright.io.evidence import TEXTS, Held, read_evidence
from pairwright.report.clean import LISTED, page_of
from pairwright.score.compare import voices
from pairwright.store import file_hash, write_json, write_parquet, write_text
from pairwright.tables import COMPARISONS, empty


def evidence_of(
    scores: pl.DataFrame, responses: pl.DataFrame, comparisons: pl.DataFrame, raters: list[str]
) -> Evidence:
    """What the tables of a run hold: the raters that stand for themselves (or those that are named), and comparisons."""
    names = raters or voices(scores["rater"].unique(maintain_order=True))
    models = responses.select("prompt_id", "response_id", model="source")
    rated = scores.filter(pl.col("rater").is_in(names)).join(models, on=["prompt_id", "response_id"], how="left")
    return Evidence(rated.select(RATED.keys()), comparisons)


def of_folder(folder: Path, raters: list[str]) -> tuple[Evidence, pl.DataFrame]:
    """The evidence of a run folder, and its texts."""
    stages = folder / "stages"
    scores = _all(stages.glob("score-*/scores-*.parquet"))
    responses = _all(stages.glob("sample/responses-*.parquet"))
    if scores is None or responses is None:
        raise DataError(f"{folder} holds no scores of a run; pairwright score or run makes them")
    comparisons = _all(stages.glob("score-*/comparisons-*.parquet"))
    held = evidence_of(scores, responses, empty(COMPARISONS) if comparisons is None else comparisons, raters)
    return held, responses.select(TEXTS.keys())


def _all(paths: Iterable[Path]) -> pl.DataFrame | None:
    parts = [pl.read_parquet(path) for path in sorted(paths)]
    return pl.concat(parts) if parts else None


def flagged(result: Result, texts: pl.DataFrame, prompts: pl.DataFrame | None = None) -> list[dict[str, Any]]:
    """The first proposals with their texts."""
    rows = result.proposals.head(LISTED)
    said = texts.rename({"response": "text"})
    rows = rows.join(said, on=["prompt_id", "response_id"], how="left", maintain_order="left")
    right = texts.rename({"response_id": "right_id", "response": "right_text"})
    rows = rows.join(right, on=["prompt_id", "right_id"], how="left", maintain_order="left")
    if prompts is not None:
        asked = prompts.select("prompt_id", prompt=pl.col("prompt").list.last().struct.field("content"))
        rows = rows.join(asked, on="prompt_id", how="left", maintain_order="left")
    else:
        rows = rows.with_columns(prompt=pl.lit(None, pl.String))
    return rows.drop("margin").to_dicts()


def page_facts(facts: Mapping[str, Any], shown: list[dict[str, Any]]) -> dict[str, Any]:
    return {**{key: facts[key] for key in ("cases", "judges", "proposals", "safe", "applied")}, "flagged": shown}


def found_in_order(result: Result, scores: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """Rows NAME.clean, equal to those of NAME, of these raters: examined by a fit that settled, and nothing of it safe.

    So that a recipe whose pairs follow NAME.clean does not stop because nothing was wrong.
    """
    made = set(result.scores["rater"])
    done = [case for case in result.facts["cases"] if case.get("outcome") == "done"]
    examined = {rater for case in done for rater in [case["rater"], *case["found"].get("raters", [])]}
    alike = [name for name in names if name in examined and f"{name}.clean" not in made]
    rows = scores.filter(pl.col("rater").is_in(alike))
    return rows.with_columns(pl.concat_str("rater", pl.lit(".clean")))


def write_result(folder: Path, result: Result) -> None:
    """proposals.parquet, soft.parquet and clean.json, beside whatever they are about."""
    write_parquet(folder / "proposals.parquet", result.proposals)
    write_parquet(folder / "soft.parquet", result.soft)
    write_json(folder / "clean.json", finite(result.facts))


def finite(value: Any) -> Any:
    """The same with null for nan and inf, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def clean_source(source: Path, out: Path, settings: Cleaning, *, layout: str | None) -> dict[str, Any]:
    """A run folder or a file into a folder of results with a page; the source is not touched."""
    _keep_apart(source, out)
    if source.is_dir():
        evidence, texts = of_folder(source, settings.raters)
        told, inputs = f"the run {source}", {}
    else:
        held: Held = read_evidence(source, layout=layout, raters=settings.raters)
        evidence, texts = Evidence(held.scores, held.comparisons, held.derived), held.texts
        told, inputs = held.told, {source.name: file_hash(source)}
    result = clean(evidence, settings)
    facts = {"read": told, "inputs": inputs, "version": __version__, **result.facts}
    result = result._replace(facts=finite(facts))
    out.mkdir(parents=True, exist_ok=True)
    if (out / "clean.json").exists():  # of an earlier call with other settings
        (out / "scores.parquet").unlink(missing_ok=True)
    write_result(out, result)
    if result.scores.height:
        write_parquet(out / "scores.parquet", result.scores)
    origin = [("read", told), *inputs.items(), ("version", __version__), ("settings", json.dumps(facts["settings"]))]
    shown = page_facts(result.facts, finite(flagged(result, texts)))
    write_text(out / "report.html", page_of(shown, title=f"Clean: {source.name}", origin=origin))  # type: ignore[arg-type]
    return result.facts


def _keep_apart(source: Path, out: Path) -> None:
    """Results never fall on what they are about: neither on a run nor on the file that is read."""
    if (out / "stages").exists() or (source.is_file() and source.resolve().parent == out.resolve()):
        raise ConfigError(
            f"--out {out} holds {source.name if source.is_file() else 'a run'}; give the results a folder of their own"
        )
