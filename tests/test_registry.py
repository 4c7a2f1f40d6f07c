"""What the Comfy registry gets: full metadata, every file that a user needs, tests first."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import dode_core as dode

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "__init__.py",
    "dode_core/sampler.py",
    "dode_core/demo/emoji_edm.safetensors",
    "example_workflows/Try D-ODE without a checkpoint.json",
    "lambdas/README.md",
    "locales/zh/nodeDefs.json",
    "nodes/distill_node.py",
    "web/dode.js",
    "web/docs/DODE_Distill.md",
)
MOST = 15_000_000  # bytes; the two demo models are 10 of them


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_metadata(project: dict[str, Any]) -> None:
    """The registry's rules: a name without ComfyUI, a publisher, a repository, a version."""
    name, comfy = project["project"]["name"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", name) and len(name) < 100
    assert "comfy" not in name
    assert project["project"]["urls"]["Repository"].startswith("https://")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert comfy["requires-comfyui"] == ">=0.3.75"
    assert (ROOT / "docs" / "images" / Path(comfy["Icon"]).name).is_file()
    for file in project["project"]["license-files"]:
        assert (ROOT / file).is_file()


def test_version(project: dict[str, Any]) -> None:
    """comfy-cli reads it off the file with an expression; it must find what Python does."""
    text = (ROOT / project["tool"]["comfy"]["version"]["path"]).read_text(encoding="utf-8")
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)[\"']", text, re.MULTILINE)
    assert found and found[1] == dode.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", dode.__version__)


def tracked(*options: str) -> set[str]:
    command = ["git", "ls-files", "-z", *options]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this is no git checkout: {error}")
    return {name for name in done.stdout.split("\0") if name}


def test_packed_files() -> None:
    """``.comfyignore`` keeps what ComfyUI loads, and leaves tests and tools out."""
    left_out = tracked("-ci", "--exclude-from=.comfyignore")
    packed = tracked() - left_out
    assert set(NEEDED) <= packed
    for folder in ("nodes/", "web/", "locales/", "example_workflows/", "lambdas/", "scripts/"):
        assert not [name for name in left_out if name.startswith(folder)]
    assert not [name for name in packed if name.startswith(("tests/", ".github/", "benchmarks/"))]
    assert sum((ROOT / name).stat().st_size for name in packed if (ROOT / name).is_file()) < MOST


def test_publishing_waits_for_the_tests() -> None:
    jobs = {}
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}, file.name
        jobs |= {f"{file.stem}.{name}": job for name, job in workflow["jobs"].items()}
    assert jobs["publish.publish"]["needs"] == "test"
    assert jobs["publish.test"]["uses"] == "./.github/workflows/test.yml"
    steps = [step.get("run", "") for step in jobs["test.all"]["steps"]]
    assert ".ci/run" in steps
