"""``python -m dode_core``: inspect, plot and the demo, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tables import made_up

import dode_core as dode
from dode_core.__main__ import main
from dode_core.demo import run as demo


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.dode.json"
    dode.save_tables(path, [made_up(cfg=7.0), made_up("heun", columns=2, gain=True)])
    return path


def test_inspect(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    tables = dode.load_tables(file)
    assert "2 tables" in out and all(table.describe() in out for table in tables)
    for table in tables:
        assert all(f"{value:.4f}" in out for value in table.lambdas.flatten().tolist())


def test_plot(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture a table, with something on it."""
    assert main(["plot", str(file), "--out", str(tmp_path / "p.png")]) == 0
    shown = capsys.readouterr().out.split()
    assert [Path(name).name for name in shown] == ["p-0.png", "p-1.png"]
    for name in shown:
        with Image.open(name) as picture:
            assert picture.width > 600 and len(picture.convert("L").getcolors(256) or []) > 50


def test_a_profile_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made once, beside where tables go; what is there is not made again; inspected."""
    monkeypatch.chdir(tmp_path)
    command = ["distill", "--demo", "emoji_flow", "--any-steps", "--cfg", "2", "--samples", "8"]
    command += ["--budget", "60", "--device", "cpu"]
    assert main(command) == 0
    first = capsys.readouterr().out
    file = tmp_path / "emoji_flow.cfg2.dode-profile"
    assert first.startswith("emoji_flow.cfg2.dode-profile: made in ")
    made = dode.Profile.load(file)
    assert made.cfg == 2 and made.model_name == "emoji_flow" and made.evaluations <= 60
    assert made.describe() in first
    before = file.stat().st_mtime_ns
    assert main(command) == 0
    assert "was there" in capsys.readouterr().out and file.stat().st_mtime_ns == before
    assert main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "emoji_flow" in out and "any steps, cfg 2, from sigma 1 to 0.0" in out
    other = [*command, "--out", file.name]
    other[other.index("--cfg") + 1] = "3"
    assert main(other) == 1
    said = "is of emoji_flow at cfg 2, size 3x32x32, not of emoji_flow at cfg 3, size 3x32x32"
    assert said in capsys.readouterr().err and file.stat().st_mtime_ns == before
    few = ["distill", "--demo", "emoji_flow", "--any-steps", "--samples", "4"]
    assert main(few) == 1
    assert "4 samples are too few" in capsys.readouterr().err


def test_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("inspect", "plot"):
        assert main([command, str(tmp_path / "none.dode.json")]) == 1
        assert "none.dode.json cannot be read" in capsys.readouterr().err


def test_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small one: every file is there, and D-DDIM is ahead of DDIM on held-out noise."""
    monkeypatch.setattr(demo, "TEACHER_STEPS", 16)
    settings = demo.DemoSettings(
        out=tmp_path, samples=8, held_out=4, nfe=(5,), solvers=("ddim", "heun"), pictures=3
    )
    demo.run_demo(settings)
    out = capsys.readouterr().out
    errors = {
        name: float(line.split()[-1])
        for line in out.splitlines()
        for name in ("plain DDIM", "D-DDIM", "D-DDIM, own sigmas", "best built-in peer")
        if line.startswith(f"{name}  ")
    }
    assert len(errors) == 4
    assert errors["D-DDIM"] < errors["plain DDIM"]
    tables = dode.load_tables(tmp_path / "demo.dode.json")
    assert [len(table.stages) for table in tables] == [5, 5, 5]
    for name in ("errors.png", "lambdas.png", "samples.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300
