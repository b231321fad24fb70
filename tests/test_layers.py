"""The ring rule: who may import whom, read from the imports of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "pairwright"
GROUND = {"errors", "protocols", "tables"}
STAGE = GROUND | {"core"}
WIRING = {
    "cli", "wiring", "recipe", "manifest", "rating", "sampling", "cleaning",
    "selecting", "training", "after", "comparing", "export", "demo", "pipeline", "engine", "settings", "store",
}  # fmt: skip
EVERYTHING = (
    STAGE | WIRING | {"sample", "score", "clean", "pair", "select", "train", "audit", "report", "io", "backends"}
)
MAY_IMPORT = {
    "errors": set(),
    "protocols": {"errors"},
    "tables": {"errors", "protocols"},
    "core": {"errors"},
    "store": GROUND,
    "settings": GROUND,
    "engine": GROUND | {"store"},
    "io": STAGE | {"store"},
    "backends": STAGE,
    "report": GROUND,
    **dict.fromkeys(("sample", "score", "clean", "pair", "select", "audit"), STAGE),
    "train": STAGE | {"backends", "store"},  # the stage that holds models: seed models, gradients
    "pipeline": GROUND | {"store", "engine", "settings"},
    "demo": {"errors", "store"},
    "export": EVERYTHING
    - {
        "cli",
        "wiring",
        "recipe",
        "manifest",
        "rating",
        "sampling",
        "cleaning",
        "selecting",
        "training",
        "after",
        "comparing",
        "pipeline",
        "backends",
        "sample",
    },
    "sampling": GROUND | {"sample", "store", "pipeline"},
    "cleaning": GROUND | {"clean", "score", "io", "report", "store"},
    "selecting": GROUND | {"select", "score", "io", "report", "store"},
    "training": GROUND
    | {"core", "train", "select", "selecting", "io", "report", "backends", "store", "settings", "pipeline"},
    "after": GROUND | {"recipe", "manifest", "pipeline", "store", "io", "selecting", "training", "train", "backends"},
    "comparing": EVERYTHING - {"cli", "demo"},
    "rating": GROUND | {"core", "score", "backends", "store", "settings", "pipeline"},
    "recipe": EVERYTHING
    - {
        "cli",
        "wiring",
        "manifest",
        "sampling",
        "cleaning",
        "selecting",
        "comparing",
        "after",
        "pipeline",
        "backends",
        "io",
        "demo",
    },
    "manifest": {"recipe", "pair", "score", "store"},
    "wiring": EVERYTHING - {"cli", "demo", "comparing"},
    "cli": EVERYTHING,
}
HEAVY = {"torch", "transformers", "trl", "vllm", "llama_cpp", "datasets", "ray", "pandas", "openvino_genai", "gguf"}
HEAVY_OK = {"backends", "io", "train", "engine"}  # and there inside the function that needs them


def unit_of(module: str) -> str:
    """pairwright.core.positions -> core."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(tree: ast.AST) -> list[tuple[str, bool]]:
    """(module, whether at the top level of the file) of every import that runs; type-checking imports do not count."""
    found = []
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "pairwright":
                found += [(f"pairwright.{alias.name}", id(node) not in inside) for alias in node.names]
            else:
                found.append((node.module, id(node) not in inside))
    return found


def breaches(unit: str, source: str) -> list[str]:
    """What the imports of a module of this unit break."""
    broken = []
    for module, at_top in imports_of(ast.parse(source)):
        root = module.split(".")[0]
        if root == "pairwright":
            target = unit_of(module)
            if target and not target.startswith("__") and target != unit and target not in MAY_IMPORT[unit]:
                broken.append(f"{unit} may not import {module}")
        elif root in HEAVY and (unit not in HEAVY_OK or at_top):
            broken.append(f"{unit} may not import {module} here")
    return broken


def modules() -> list[tuple[str, Path]]:
    return [
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.name != "__init__.py"
    ]


def test_every_module_has_its_ring() -> None:
    assert {unit for unit, _ in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize(("unit", "path"), modules(), ids=lambda value: str(value)[-40:])
def test_a_ring_imports_only_the_rings_inside_it(unit: str, path: Path) -> None:
    assert breaches(unit, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("core", "from pairwright.tables import PAIRS"),
        ("pair", "from pairwright.io.trl import card"),
        ("report", "import pairwright.pair.build"),
        ("pair", "import torch"),
        ("backends", "import openvino_genai"),
        ("tables", "def f():\n    from pairwright.store import atomic"),
        ("pipeline", "from pairwright import wiring"),
    ],
)
def test_a_planted_import_is_named(unit: str, source: str) -> None:
    assert breaches(unit, source)


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, pairwright, pairwright.cli; "
        f"heavy = {sorted(HEAVY | {'polars', 'numpy', 'scipy', 'rich.console'})}; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
