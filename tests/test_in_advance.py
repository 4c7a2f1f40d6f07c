"""Tables that a calibration makes in advance: which, how long, and that they are the very same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import gaussian, randn
from safetensors.numpy import load, save
from test_profile_file import made, parts

import dode_core as dode
from dode_core.fit import distributed
from dode_core.response import in_advance
from dode_core.response.in_advance import LEAST_SECONDS, SHARE, STEPS, USUAL, with_tables
from dode_core.response.profile import parse_profile
from dode_core.response.profile_file import dump_profile


class Clock:
    """Seconds that pass by what is made: ``each`` for a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float) -> None:
        self.now, table = 0.0, dode.Profile.table

        def slow(profile: dode.Profile, steps: int) -> dode.LambdaTable:
            self.now += each * steps
            return table(profile, steps)

        monkeypatch.setattr(dode.Profile, "table", slow)

    def __call__(self) -> float:
        return self.now


def fresh() -> dode.Profile:
    """One that has made nothing yet but a table of three steps."""
    return replace(made())


def steps_of(profile: dode.Profile) -> list[int]:
    return [table.steps for table in profile.tables]


def never(*_: object) -> dode.LambdaTable:
    raise AssertionError("A table was made again.")


def test_all_of_3_to_30_steps_and_the_very_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        clock = Clock(patched, 0.01)
        found = with_tables(fresh(), 600.0, clock=clock)
    assert steps_of(found) == [3, *(n for n in STEPS if n != 3)]
    assert sorted(steps_of(found)) == list(range(3, 31))
    found.save(tmp_path / "a.dode-profile")
    found = dode.Profile.load(tmp_path / "a.dode-profile")
    other = fresh()
    wanted = {n: other.table(n) for n in (4, 9, 20)}
    with monkeypatch.context() as patched:
        patched.setattr(dode.Profile, "_make", never)
        for steps in range(3, 31):
            table = found.table(steps)
            if steps in wanted:
                assert torch.equal(table.sigmas, wanted[steps].sigmas)
                assert torch.equal(table.lambdas, wanted[steps].lambdas)
                assert table.cfg == wanted[steps].cfg == 3.0 and table.seed == made().seed


def test_no_more_than_its_share_of_the_time_the_usual_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, 0.2)
    allowed = 10.0
    found = with_tables(fresh(), allowed / SHARE, clock=clock)
    extra = steps_of(found)[1:]
    assert 0.9 * allowed < clock.now <= allowed
    assert extra[:3] == list(USUAL[:3]) == [6, 10, 20] and 30 not in extra


def test_of_a_short_calibration_none() -> None:
    profile = fresh()
    assert with_tables(profile, LEAST_SECONDS - 1) is profile


def test_one_process_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = fresh()
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert with_tables(profile, 600.0, clock=Clock(monkeypatch, 0.01)) is profile


def test_what_another_version_made_in_advance_is_made_anew() -> None:
    """What was measured stays: it was measured with these very numbers."""
    measured = {m.steps for m in made().measured if m.start is None}
    assert measured and 6 not in measured
    both = (*made().tables, made().table(6), *map(made().table, measured))
    tensors, about = (
        load(dump_profile(replace(made(), tables=both))),
        json.loads(parts()[1]["profile"]),
    )
    same = parse_profile(save(tensors, {"profile": json.dumps(about)}))
    assert steps_of(same) == [3, 6, *measured]
    older = parse_profile(save(tensors, {"profile": json.dumps(about | {"program": "dode 0.0.9"})}))
    assert steps_of(older) == list(measured)
    part = made().table(min(measured), 2.0)  # that many were measured from pure noise
    tensors = load(dump_profile(replace(made(), tables=(part,))))
    older = parse_profile(save(tensors, {"profile": json.dumps(about | {"program": "dode 0.0.9"})}))
    assert not older.tables


class Told:
    """A progress that hears the phases, and may have enough in one."""

    def __init__(self, enough_in: str = "") -> None:
        self.enough_in, self.phases = enough_in, [""]
        self.counts: list[tuple[int, int]] = []
        self.making: list[tuple[int, int]] = []

    def begin(self, phase: str) -> None:
        self.phases.append(phase)

    def __call__(self, done: int, total: int, denoised: torch.Tensor) -> None:
        self.counts.append((done, total))
        if "making the tables" in self.phases[-1]:
            self.making.append((done, total))
        if self.enough_in and self.enough_in in self.phases[-1]:
            raise dode.Enough


def calibrated(progress: Callable[..., None] | None = None) -> dode.Profile:
    x = randn(8, 2, 6, 6) * 15
    how = {"parametrization": "ve", "budget": 56, "progress": progress}
    return dode.calibrate(gaussian(shape=(2, 6, 6)), x, 15.0, 0.05, **how)


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of any time makes two tables that are not measured."""
    monkeypatch.setattr(in_advance, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(in_advance, "SHARE", 1e9)
    monkeypatch.setattr(in_advance, "STEPS", (8, 6, 7))


@pytest.mark.usefixtures("two_steps")
def test_a_calibration_says_so_and_ends_with_them() -> None:
    told = Told()
    found = calibrated(told)
    assert {6, 7} < set(steps_of(found)) and steps_of(found).count(8) == 1
    assert told.phases[-1] == "making the tables of 3 to 30 steps"
    assert len(told.making) == 3 and all(done == total for done, total in told.making)
    dones = [done for done, _ in told.counts]
    assert dones == sorted(dones) and told.counts[-1][0] == told.counts[-1][1]
    assert {6, 7} < set(steps_of(calibrated()))


def test_a_short_one_says_nothing_of_them() -> None:
    told = Told()
    calibrated(told)
    assert not any("tables" in phase for phase in told.phases)


@pytest.mark.usefixtures("two_steps")
def test_who_has_enough_waits_for_no_table() -> None:
    """What was measured is kept; of those in the making no other is begun, or none at all."""
    told = Told("making")
    whole = steps_of(calibrated(told))
    assert 8 in whole and not {6, 7} & set(whole) and told.phases[-1].startswith("making")
    early = calibrated(Told("measuring"))
    assert not {6, 7} & set(steps_of(early)) and early.table(6).steps == 6
