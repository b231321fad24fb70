"""Documents are executed: every Python block runs, every command of ours ends well, every command occurs in a document."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
CONSOLE = re.compile(r"^\$ (pairwright .*)$", re.M)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


def blocks() -> list[tuple[str, str]]:
    return [(path.name, block) for path in DOCUMENTS for block in PYTHON.findall(path.read_text())]


@pytest.mark.parametrize(("name", "block"), blocks())
def test_a_python_block_runs(name: str, block: str) -> None:
    exec(compile(block, name, "exec"), {})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stands in for the embedded model where a document trains: the commands are the same, the minutes are not."""
    pytest.importorskip("trl")
    from tiny_causal import tiny_causal

    return str(tiny_causal(tmp_path_factory.mktemp("readme") / "model"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_run_one_after_another(
    path: Path, tmp_path: Path, pairwright: Callable, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    commands = CONSOLE.findall(path.read_text())
    if any(command.split()[1] in ("train", "compare") for command in commands):
        model = request.getfixturevalue("tiny")
        for recipe in (tmp_path / "examples").glob("*.yaml"):
            recipe.write_text(recipe.read_text().replace("smollm2-135m-instruct", model))
    for command in commands:
        words = shlex.split(command.split(" #")[0])[1:]
        if words[0] == "demo" and "fake" not in words:
            words += ["--backend", "fake"]  # the real model has a test of its own
        done = pairwright(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_demo_with_the_fake_sampler_ends_in_pairs(tmp_path: Path, pairwright: Callable) -> None:
    done = pairwright("demo", "--backend", "fake", "--n", "12", "--prompts", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("chosen", "rejected", "runs/demo/pairs.parquet", "runs/demo/report.html"):
        assert word in done.stdout


@pytest.mark.model
def test_the_demo_with_the_real_model_ends_in_pairs(tmp_path: Path, pairwright: Callable) -> None:
    pytest.importorskip("openvino_genai")
    changes = ["demo", "--n", "6", "--prompts", "3", "--out", tmp_path / "run"]
    done = pairwright(*changes)
    assert done.returncode == 0, done.stderr
    assert "pairs.parquet" in done.stdout
    assert "smollm2" in (tmp_path / "run" / "manifest.json").read_text()


def test_every_command_occurs_in_a_document() -> None:
    from pairwright.cli import app

    written = "".join(path.read_text() for path in DOCUMENTS)
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"pairwright {command.name or command.callback.__name__} " in written


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_first_screen_of_the_readme_names_both_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:12])
    assert "make demo" in first
    assert "make test" in first
