"""Several processes under torchrun: the same table as one, and an error in one is everybody's."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import dode_core as dode
from dode_core.fit import distributed

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "tests" / "ranks_script.py")
PATIENCE = 1800  # seconds; a busy machine is no failure
CASES = ("columns", "many", "sigmas", "bad sample", "few")  # few: fewer samples than 4 processes


def torchrun(ranks: int, *command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run under torchrun on this machine, in ``folder``."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run += [f"--nproc-per-node={ranks}", *command]
    return subprocess.run(
        run, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def alone(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    run = [sys.executable, *command]
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What 1 and 4 processes make of every case; two run the command below."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 4)}
    for ranks, folder in folders.items():
        run = alone if ranks == 1 else partial(torchrun, ranks)
        done = run(SCRIPT, *CASES, "profile", folder=folder)
        assert done.returncode == 0, done.stderr[-2000:]
    return folders


@pytest.mark.parametrize("case", CASES)
def test_the_same_table_as_one_process(case: str, made: dict[int, Path]) -> None:
    ours, theirs = (dode.load_tables(made[n] / f"{case}.dode.json") for n in (4, 1))
    assert len(ours) == len(theirs) == (4 if case == "many" else 1)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.lambdas, b.lambdas, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a.sigmas, b.sigmas, rtol=1e-9, atol=1e-9)
        assert (a.samples_fit, a.samples_holdout, a.dropped, a.zeroed) == (
            *(b.samples_fit, b.samples_holdout, b.dropped, b.zeroed),
        )
        assert a.dropped == (2 if case == "bad sample" else 0)
        assert a.dropped or a.evaluations == b.evaluations
        assert a.errors and b.errors
        for name in ("plain_fit", "distilled_fit", "plain_holdout", "distilled_holdout"):
            assert getattr(a.errors, name) == pytest.approx(getattr(b.errors, name), rel=1e-9)


def test_the_same_profile_as_one_process(made: dict[int, Path]) -> None:
    """Whose tables are then the same as well, as far as sums in another order allow."""
    ours, theirs = (dode.Profile.load(made[n] / "profile.dode-profile") for n in (4, 1))
    assert ours.evaluations == theirs.evaluations
    assert len(ours.measured) == len(theirs.measured) > 3
    for a, b in zip(ours.measured, theirs.measured, strict=True):
        assert (a.steps, a.start, a.name) == (b.steps, b.start, b.name)
        assert a.measured == pytest.approx(b.measured, rel=1e-3)
    a, b = ours.table(5), theirs.table(5)
    torch.testing.assert_close(a.sigmas, b.sigmas, rtol=1e-3, atol=1e-6)
    assert a.errors and b.errors
    assert a.errors.distilled_fit == pytest.approx(b.errors.distilled_fit, rel=1e-3)


def test_a_process_that_dies(tmp_path: Path) -> None:
    """The run ends at once, says so, and nothing is written."""
    done = torchrun(3, SCRIPT, "dies", folder=tmp_path)
    assert done.returncode != 0
    assert "one of them died or hangs; nothing was written" in done.stderr or (
        "Signal 9 (SIGKILL)" in done.stderr  # torchrun was quicker than the others' next exchange
    )
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails(tmp_path: Path) -> None:
    """Its own error, and one sentence from each of the others."""
    done = torchrun(3, SCRIPT, "fails", folder=tmp_path)
    assert done.returncode != 0
    assert "ValueError: the model fell over" in done.stderr
    assert "Process 1 of 3 failed, see its own message; nothing was written." in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """What the documentation tells labs to type; one sample at a time, as kernels round alike."""
    command = ["-m", "dode_core", "distill", "--demo", "emoji_edm", "--steps", "4,5"]
    command += ["--samples", "6", "--batch-size", "1", "--out"]
    together = torchrun(2, *command, "two.dode.json", folder=tmp_path)
    assert together.returncode == 0, together.stderr[-2000:]
    assert together.stdout.count("2 tables made") == 1  # one process reports
    assert alone(*command, "one.dode.json", folder=tmp_path).returncode == 0
    pairs = zip(
        *(dode.load_tables(tmp_path / f"{n}.dode.json") for n in ("one", "two")), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a.lambdas, b.lambdas, rtol=1e-9, atol=1e-9)


def test_alone_everything_is_the_identity() -> None:
    values = torch.arange(6.0).reshape(3, 2)
    assert distributed.gather(values) is values and distributed.total(values) is values
    assert distributed.mine(values, 3) is values and distributed.share(slice(2, 5)) == slice(2, 5)
    assert distributed.rank() == 0 and distributed.size() == 1
    with distributed.ranks():
        distributed.all_well()
