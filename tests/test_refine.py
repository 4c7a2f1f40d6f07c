"""Learning goes on from a table that is there already: a profile's, or a relative's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import karras, mixture, randn, solve
from torch import Tensor

import dode_core as dode
from dode_core import shelf
from dode_core.__main__ import main
from dode_core.learn.choice import best_run
from dode_core.learn.given import start_of
from dode_core.many_tables import distill_many
from dode_core.refining import start_for
from dode_core.solve.scheme import Scheme
from dode_core.tables.identity import Identity

HIGH, LOW, SHAPE, STEPS = 80.0, 0.02, (2, 6, 6), 5
MODEL = mixture("ve", SHAPE, components=6, std=0.3)
GRID = karras(STEPS, LOW, HIGH)
LEARN: dict[str, Any] = {"columns": 2, "gain": True, "learn_sigmas": True}
SCHEME = Scheme.of("ddim", "ve", 2, True)


def noise(count: int = 12, seed: int = 1) -> Tensor:
    return randn(count, *SHAPE, seed=seed) * HIGH


@cache
def profile() -> dode.Profile:
    return dode.calibrate(MODEL, noise(), HIGH, LOW, parametrization="ve")


def own_rows(steps: int = STEPS) -> dode.LambdaTable:
    """The profile's own table, also where it would rather take built-in rows."""
    found = profile()
    return found.table_of(found.plan(steps))


def error(table: dode.LambdaTable) -> float:
    """Of a typical one of 64 noises that nothing saw."""
    x = noise(64, 9)
    goal = MODEL(y := solve(MODEL, x, HIGH, 1e-3), y.new_full((len(y),), 1e-3))
    off = dode.sample(MODEL, x, table.sigmas, table=table, disable=True) - goal
    return float(off.flatten(1).square().mean(1).log().mean().exp().sqrt())


def test_without_a_round_it_is_the_table_it_began_with() -> None:
    """Exactly, the look ahead and what that guesses included; other starts are not paid for."""
    begun = own_rows()
    assert begun.look_ahead is not None
    found = dode.distill(MODEL, noise(), GRID, budget=40 + 3 * STEPS + 1, starts=[begun], **LEARN)
    assert found.helps and found.learned_sigmas
    torch.testing.assert_close(found.sigmas, begun.sigmas, rtol=0, atol=0)
    torch.testing.assert_close(found.lambdas, begun.lambdas, rtol=0, atol=0)
    assert found.look_ahead == begun.look_ahead
    assert 40 + 3 * STEPS <= found.evaluations <= 40 + 3 * STEPS + 1


def test_rounds_end_nearer_than_it_began() -> None:
    begun = own_rows()
    found = dode.distill(MODEL, noise(12, 4), GRID, budget=200, starts=[begun], **LEARN)
    assert found.evaluations <= 200 and not torch.equal(found.lambdas, begun.lambdas)
    assert error(found) < error(begun)


def test_a_table_of_another_kind_brings_its_sigmas_only() -> None:
    other = dode.LambdaTable.of(
        Scheme.of("deis", "ve"),
        own_rows().sigmas.tolist(),
        torch.zeros(STEPS, 1, dtype=torch.float64),
    )
    start = start_of(other, GRID.tolist(), SCHEME)
    assert start.rows is None and not start.ahead
    assert start.nodes == (GRID[0].item(), *own_rows().sigmas[1:-1].tolist(), 0.0)
    start = start_of(own_rows(), GRID.tolist(), SCHEME)
    assert start.ahead and start.rows == tuple(map(tuple, own_rows().lambdas.tolist()))
    assert start.nodes[1] == own_rows().look_ahead.sigma  # type: ignore[union-attr]
    with pytest.raises(dode.CalibrationError, match="4 steps, but the table is to have 5"):
        start_of(own_rows(4), GRID.tolist(), SCHEME)


def test_a_model_that_takes_no_look_ahead_learns_as_without_the_table() -> None:
    class Blind:
        look_ahead = False

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            return MODEL(x, sigma)

    found = dode.distill(
        Blind(), noise(), GRID, budget=90, starts=[own_rows()], parametrization="ve", **LEARN
    )
    assert found.look_ahead is None and not torch.equal(found.lambdas, own_rows().lambdas)


def test_of_many_tables_each_goes_on_from_its_own() -> None:
    grids = [karras(n, LOW, HIGH) for n in (4, STEPS)]
    how: dict[str, Any] = {"settings": ((2, True),), "learn_sigmas": True}
    budget = 40 + 3 * (4 + STEPS) + 2
    begun = [own_rows(4), own_rows()]
    found = distill_many(MODEL, noise(), grids, budget=budget, starts=begun[::-1], **how)
    for table, start in zip(found, begun, strict=True):
        torch.testing.assert_close(table.lambdas, start.lambdas, rtol=0, atol=0)
    lower = replace(begun[0], sigmas=begun[0].sigmas * 0.5, look_ahead=None)
    (table,) = distill_many(MODEL, noise(), grids[:1], budget=60, starts=[lower], **how)
    assert not torch.equal(table.lambdas, lower.lambdas)  # of a run from elsewhere


def who(patches: str = "") -> Identity:
    extra = f" patches:{patches}" if patches else ""
    return Identity(None, "m", f"weights:{'1' * 16}{extra}")


def test_only_the_profile_of_just_this_model_and_cfg(tmp_path: Path) -> None:
    made = shelf.stamped_profile(profile(), who(), 2.0, 0)
    stored = [shelf.StoredProfile(made, tmp_path / "p")]
    grid = GRID.tolist()
    start = start_for(stored, who(), 2.0, SHAPE, grid)
    assert start is not None
    torch.testing.assert_close(start.sigmas, profile().table(STEPS).sigmas)
    part = start_for(stored, who(), 2.0, SHAPE, [3.0, 1.0, 0.3, 0.0])
    assert part is not None and part.sigmas[0] == 3.0 and part.steps == 3
    none = [
        start_for([], who(), 2.0, SHAPE, grid),
        start_for(stored, who(), 3.0, SHAPE, grid),
        start_for(stored, who("2" * 16), 2.0, SHAPE, grid),
        start_for(stored, who(), 2.0, (2, 8, 8), grid),
        start_for(stored, who(), 2.0, SHAPE, grid[:-1]),
        start_for(stored, who(), 2.0, SHAPE, [200.0, *grid[1:]]),
    ]
    assert none == [None] * len(none)


def test_the_command_goes_on_from_the_profile_beside_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["distill", "--demo", "emoji_flow", "--cfg", "1", "--samples", "8", "--device", "cpu"]
    assert main([*command, "--any-steps", "--budget", "60"]) == 0
    own = dode.Profile.load(tmp_path / "emoji_flow.cfg1.dode-profile")
    plan = own.table_of(own.plan(4))
    monkeypatch.setattr(dode.Profile, "table", lambda *_, **__: plan)  # not built-in rows instead
    columns = ["--steps", "4", "--columns", "2", "--gain", "--learn-sigmas", "--budget", "53"]
    assert main([*command, *columns, "--out", "t.dode.json"]) == 0
    (table,) = dode.load_tables(tmp_path / "t.dode.json")
    torch.testing.assert_close(table.lambdas, plan.lambdas)
    assert table.learned_sigmas and table.evaluations <= 53


class Measured:
    """Stands in for a student: runs are lists of log errors, of fit and of held-out samples."""

    validates = True

    def logs(self, run: Any, held_out: bool = False) -> Tensor:
        return torch.tensor(run[held_out])

    def typical_error(self, run: Any, held_out: bool = False) -> float:
        return float(self.logs(run, held_out).mean().exp())


def test_what_it_began_with_stays_unless_held_out_samples_tell_it_from_a_better_one() -> None:
    begun = [[0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    alike = [[-0.5, -0.5], [0.10, -0.01, -0.13, 0.0]]
    nearer = [[-0.3, -0.3], [-0.06, -0.31, -0.12, -0.05]]
    choose: Any = best_run
    assert choose(Measured(), [begun, alike], begun) is begun
    assert choose(Measured(), [begun, nearer], begun) is nearer
    assert choose(Measured(), [begun, alike]) is alike  # nothing was known before
