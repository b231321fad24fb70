"""docs/evidence.md out of the results: verdicts, sizes, surprises, our defaults. Every number comes from the rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import plots
import polars as pl
from book import interval
from cells import factors
from evidence import Claim, Results, Row, Told

MARK = {"yes": "✓", "no": "✗", "open": "?"}
UNITS = {
    "gain": "spreads", "gain_far": "spreads at equal KL", "gain_at_kl": "spreads at equal KL", "best": "spreads",
    "held_out": "spreads", "kl": "nats", "error": "nats", "loss": "nats", "good_rejected": "nats", "poor_chosen": "nats",
    "uncovered": "nats", "right": "of the labels", "dist": "of the pairs", "auc": "AUC",
}  # fmt: skip
WORDS = {
    "above": "above",
    "below": "below",
    "same": "no difference",
    "open": "open",
    "absent": "not run",
    None: "-",
}
HEAD = """# Evidence: which claims hold

Made by `make claims`; nothing on this page is written by hand: the sentences are templates and the numbers come from the
results. Setting: {setting}, seed {seed}. `bench/claims/NAME.yaml` has the arms, the tests and the outcome that we expected of
a test before its first run; `bench/claims/NAME.py` runs them, with the stages of the product, on small worlds that are known
exactly.

**How to read it.** A gain is the rise in true expected reward over the start policy, in spreads (standard deviations of the
reward under the start policy). A size is the mean of paired differences over seeds with its 95 % interval (Student's t). The
outcome follows by rule: *no difference* where the whole interval lies within the tolerance of the test, else *above* or
*below* where the interval excludes 0, else *open*: more seeds would be needed. The tolerance is 0.05 for gains, 0.01 for
the rest, unless the test's line in the YAML says otherwise. ✓ the claim stands in this condition, ✗ it does not (the opposite,
or no difference), ? open.

{tests} tests are on this page: were there no effect anywhere, chance alone would still put about {chance:.0f} of the intervals
outside 0. These are small worlds. They show when a claim can hold and when it cannot, not how large the effect is for a large
model.

**To distrust it.** `python bench/claims/run.py --seed 7` runs the same with seeds that share nothing with these and writes a
page of its own under `runs/claims/`; where the results of seed 0 are there too, it prints every outcome that differs and
calls those that are opposed by their name. `--full` takes more seeds and larger problems.

"""


def write(tables: Mapping[str, pl.DataFrame], path: Path, *, setting: str, seed: int) -> Path:
    """The page at `path`, its drawings in the folder of the same name beside it."""
    known = {name: (evidence.read(name), Results(table)) for name, table in tables.items()}
    told = {name: {id(t): evidence.ask(results, t) for t in claim.tests()} for name, (claim, results) in known.items()}
    every = [one for by_test in told.values() for one in by_test.values() if one.outcome != "absent"]
    text = HEAD.format(setting=setting, seed=seed, tests=len(every), chance=0.05 * len(every))
    text += summary({name: claim for name, (claim, _) in known.items()}, told)
    text += surprises({name: claim for name, (claim, _) in known.items()}, told)
    text += defaults({name: claim for name, (claim, _) in known.items()}, told)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    text += "## The claims one by one\n"
    for name, (claim, results) in known.items():
        text += section(claim, results, told[name], folder)
    text += seeds_of({name: claim for name, (claim, _) in known.items()}, setting)
    path.write_text(text.rstrip() + "\n")
    return path


def size(one: Told) -> str:
    if one.outcome == "absent":
        return "not run"
    unit = UNITS.get(one.test.metric, "")
    return f"{number(one.size.mean)} [{number(one.size.low)}, {number(one.size.high)}]{' ' + unit if unit else ''}"


def number(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    if value == 0 or abs(value) < 5e-7:
        return "0"
    places = 2 if abs(value) >= 0.1 else 3 if abs(value) >= 0.01 else 4
    text = f"{value:+.{places}f}"
    return "0" if float(text) == 0 else text


def verdict(row: Row, told: Mapping[int, Told]) -> str:
    """yes or no where all conditions agree, else the counts."""
    stand = [told[id(test)].holds for test in row.tests]
    n = {key: stand.count(key) for key in MARK}
    if n["yes"] == len(stand):
        return "yes"
    if n["no"] == len(stand):
        return "no"
    parts = [f"in {n['yes']} of {len(stand)}", *([f"{n['open']} open"] if n["open"] else [])]
    return ", ".join(parts)


def summary(claims: Mapping[str, Claim], told: Mapping[str, Mapping[int, Told]]) -> str:
    lines = ["| claim | source | holds? | when | size | control |", "| --- | --- | --- | --- | --- | --- |"]
    for name, claim in claims.items():
        for row in claim.rows:
            at = [told[name][id(test)] for test in row.tests]
            checks = [told[name][id(test)] for test in row.controls]
            when = "<br>".join(f"{MARK[one.holds]} {one.test.when}" for one in at)
            sizes = "<br>".join(size(one) for one in at)
            control = "<br>".join(f"{one.test.when}: {size(one)}" for one in checks) or "-"
            source = claim.source.split(",")[0]
            lines.append(
                f"| [{row.text}](#{name}) | {source} | {verdict(row, told[name])} | {when} | {sizes} | {control} |"
            )
    return "## The table\n\n" + "\n".join(lines) + "\n\n"


def surprises(claims: Mapping[str, Claim], told: Mapping[str, Mapping[int, Told]]) -> str:
    """Where the outcome is settled and is not what was written down before the first run."""
    out, expected, settled = [], 0, 0
    every = [
        (name, row, test)
        for name, claim in claims.items()
        for row in claim.rows
        for test in (*row.tests, *row.controls)
    ]
    for name, row, test in every:
        one = told[name][id(test)]
        expected += test.expect is not None
        settled += test.expect is not None and one.outcome not in ("open", "absent")
        if one.surprise:
            words = f"expected {WORDS[test.expect]}, found {WORDS[one.outcome]}: {size(one)}"
            out.append(f"- *{row.text}* {test.when[0].upper()}{test.when[1:]}: {words}")
    head = f"An outcome was written down for {expected} tests before their first run; {settled} are settled, "
    head += f"and {len(out)} of these came out otherwise:"
    return "## What surprised us\n\n" + "\n".join([head, "", *out]) + "\n\n"


def defaults(claims: Mapping[str, Claim], told: Mapping[str, Mapping[int, Told]]) -> str:
    lines = ["| default of ours | what the results say | rests on |", "| --- | --- | --- |"]
    for name, claim in claims.items():
        named = {test.id: told[name][id(test)] for test in claim.tests() if test.id}
        for each in claim.defaults:
            parts = each.get("parts", [each])
            words = " ".join(filter(None, (says(part, named[part["test"]]) for part in parts)))
            lines.append(f"| {each['name']} | {words} | {_rests(each, named)} |")
    return "## What it means for our defaults\n\n" + "\n".join(lines) + "\n\n"


def says(entry: Mapping[str, Any], main: Told) -> str:
    """The sentence that belongs to the outcome; `other` for those that have none, and open stays open."""
    if main.outcome in ("open", "absent"):
        return str(
            entry.get("open", f"{main.test.when[0].upper()}{main.test.when[1:]}: not settled ({WORDS[main.outcome]}).")
        )
    return str(entry.get(main.outcome, entry.get("other", "-")))


def _rests(entry: Mapping[str, Any], named: Mapping[str, Told]) -> str:
    tests = [named[part["test"]] for part in entry.get("parts", [entry])]
    return "<br>".join(f"{one.test.when}: {size(one)}" for one in tests)


def section(claim: Claim, results: Results, told: Mapping[int, Told], folder: Path) -> str:
    out = [f'\n<a id="{claim.name}"></a>\n\n### {claim.title}\n', f"Source: {claim.source}. {claim.world.strip()}\n"]
    for row in claim.rows:
        out.append(f"**{row.text}** {verdict(row, told).capitalize()}.\n")
        out += ["| condition | size | outcome | expected | claimed | |", "| --- | --- | --- | --- | --- | --- |"]
        for kind, tests in (("", row.tests), ("control: ", row.controls)):
            for test in tests:
                one = told[id(test)]
                mark = MARK[one.holds] if test.claim else ""
                words = (WORDS[one.outcome], WORDS[test.expect], WORDS[test.claim], mark)
                out.append(f"| {kind}{test.when} | {size(one)} | {' | '.join(words)} |")
        out.append("")
    out += [f"![{alt}]({folder.name}/{file})" for alt, file in drawings(claim, results, told, folder)]
    return "\n".join(out) + "\n"


def drawings(claim: Claim, results: Results, told: Mapping[int, Told], folder: Path) -> list[tuple[str, str]]:
    """The intervals of the claim's gains in one drawing, and the plots that its file asks for."""
    made = []
    gains = ("gain", "gain_at_kl", "gain_far", "held_out", "best")
    some = any(test.metric in gains for row in claim.rows for test in row.tests)
    groups = []
    for row in claim.rows:
        at = [told[id(test)] for test in row.tests if test.metric in gains or not some]
        items = [(one.test.when, one.size.mean, one.size.half, one.outcome) for one in at if one.outcome != "absent"]
        groups += [(row.text, items)] if items else []
    if groups:
        unit = "spreads" if some else "as in the table"
        made.append((f"{claim.title}: differences", f"{claim.name}.svg", plots.forest(claim.title, groups, unit)))
    for plot in claim.plots:
        drawn = _grid(results, plot) if plot.get("kind") == "grid" else _lines(results, plot)
        if drawn:
            made.append((plot["title"], f"{plot['file']}.svg", drawn))
    for _, file, svg in made:
        (folder / file).write_text(svg)
    return [(alt, file) for alt, file, _ in made]


def _matching(results: Results, where: Mapping[str, Any]) -> list[str]:
    wanted = {key: str(value) for key, value in where.items()}
    return [cell for cell in results.cells() if wanted.items() <= factors(cell).items()]


def _lines(results: Results, plot: Mapping[str, Any]) -> str:
    by_arm: dict[str, list[tuple[float, float, float]]] = {}
    for cell in _matching(results, plot["where"]):
        at = factors(cell)
        if plot["x"] not in at:
            continue
        for (c, arm, metric), value in results.values.items():
            if c == cell and metric == plot["metric"]:
                told = interval(value)
                by_arm.setdefault(arm, []).append((float(at[plot["x"]]), told.mean, told.half))
    series = [plots.Line(arm, sorted(points)) for arm, points in by_arm.items() if len(points) > 1]
    if not series:
        return ""
    return plots.lines(plot["title"], series, across=plot["x"], up=plot["up"], log=plot.get("log", False))


def _grid(results: Results, plot: Mapping[str, Any]) -> str:
    value: dict[tuple[str, str], float] = {}
    for cell in _matching(results, plot["where"]):
        row = factors(cell)[plot["row"]]
        for (c, arm, metric), seen in results.values.items():
            if c == cell and metric == plot["metric"]:
                value[row, arm] = interval(seen).mean
    rows, columns = list(dict.fromkeys(r for r, _ in value)), list(dict.fromkeys(c for _, c in value))
    return plots.grid(plot["title"], rows, columns, value) if value else ""


def seeds_of(claims: Mapping[str, Claim], setting: str) -> str:
    told = "; ".join(f"{claim.title}: {claim.seeds[setting]}" for claim in claims.values())
    return f"\n## Seeds\n\n{told}.\n"
