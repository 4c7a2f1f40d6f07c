"""What a calibration measures of itself, beside built-in samplers, and what it makes of that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import Recorded, mixture, rms, solve
from test_profile import HIGH, LOW, SHAPE, noise, profile

import dode_core as dode
from dode_core.response.built_in import best_built_in
from dode_core.response.measured import Measured, compared, nearest
from dode_core.response.measuring import is_told


def test_some_runs_are_measured_beside_built_in_rows() -> None:
    """On the same samples, by their own rows; 8 steps whatever the budget."""
    beside = [m for m in profile().measured if m.built_in is not None]
    assert 8 in [m.steps for m in beside if m.start is None]
    assert all(m.name in ("ddim", "ipndm", "deis", "dpmpp_2m") for m in beside)
    assert all(m.built_in_predicted and m.built_in for m in beside)


@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_a_run_that_is_not_nearer_takes_the_built_in_row(kind: str) -> None:
    """Where the samples that were held out, the last three of twelve, tell theirs to be nearer."""
    high, low = (HIGH, LOW) if kind == "ve" else (1.0, 0.01)
    model, x = mixture(kind, SHAPE, components=4, std=0.6), noise(high=high)[9:]
    found, how = profile(kind), {"disable": True, "parametrization": kind}
    exact = solve(model, x, high, low / 20)
    checked = 0
    for m in found.measured:
        if m.built_in is None or m.start is not None:
            continue
        ours = found.table_of(found.plan(m.steps))
        theirs = best_built_in(found, found.plan(m.steps))
        assert theirs is not None
        off = [dode.sample(model, x, t.sigmas, table=t, **how) - exact for t in (ours, theirs)]
        told = is_told(*(each.flatten(1).double().square().mean(1) for each in off))
        assert bool(found.table(m.steps).lambdas.any()) == (not told)
        checked += 1
    assert checked


def test_what_few_samples_may_say_by_chance_does_not_decide() -> None:
    """One that ends at another image, which makes the RMS larger; samples that do not agree."""
    ours, theirs = torch.tensor([1.0, 1.0, 1.0, 400.0]), torch.tensor([100.0] * 4)
    assert ours.mean() > theirs.mean() and not is_told(ours, theirs) and is_told(theirs, ours)
    apart = torch.tensor([80.0, 130.0, 100.0, 160.0])  # nearer and further, 1.13 times in the mean
    assert not is_told(apart, theirs) and not is_told(theirs, apart)
    assert is_told(1.3 * theirs, theirs) and not is_told(theirs, theirs)
    assert is_told(torch.tensor([2.0]), torch.tensor([1.0]))


def test_what_was_measured_beside_built_in_rows_is_not_decided_again() -> None:
    """A run that kept its own rows keeps them, whatever its RMS was."""
    found = profile()
    off = Measured(8, None, 0.01, 10.0, 0.02, 0.02, "deis")
    kept = replace(found, measured=(off,), tables=())
    assert kept.table(8).lambdas.any() and kept.table(9).lambdas.any()
    assert compared((off,), 8, None) and not compared((off,), 8, 3.0)
    part = replace(off, start=3.0)
    assert compared((part,), 8, 3.0) and not compared((part,), 8, 2.0)
    assert not compared((replace(off, built_in=None),), 8, None)


def test_the_built_in_error_is_that_of_a_real_run() -> None:
    """Three held-out samples of twelve, which the teacher follows closely."""
    model, x = mixture("ve", SHAPE, components=4, std=0.6), noise()[9:]
    found = profile()
    exact = solve(model, x, HIGH, 1e-3)
    for m in found.measured:
        if m.built_in is None or m.start is not None:
            continue
        other = best_built_in(found, found.plan(m.steps))
        assert other is not None and other.solver == m.name
        how = {"table": other, "disable": True, "parametrization": "ve"}
        out = dode.sample(model, x, other.sigmas, **how)
        assert rms(out - exact) == pytest.approx(m.built_in, rel=0.02)


def test_what_was_measured_decides_where_nothing_was() -> None:
    """9 steps, where 8 were left to built-in rows: ours had ended far above its expectation there.

    Where ours ended nearer, however far above, nothing is said against it at other counts.
    """
    found = profile()
    assert found.table(9).lambdas.any()
    off = Measured(8, None, 0.01, 10.0, 0.02, 0.02, "deis")
    assert replace(found, measured=(off,), tables=()).table(9).lambdas.any()
    plain = best_built_in(found, found.plan(8))
    assert plain is not None
    wary = replace(found, measured=(off,), tables=(plain,))
    assert not wary.table(8).lambdas.any() and not wary.table(9).lambdas.any()
    alone = replace(off, built_in=None)  # what ended far above says nothing of built-in rows
    assert replace(wary, measured=(alone,)).table(9).lambdas.any()
    assert wary.optimism(found.table(9)) == 1000
    assert wary.optimism(wary.table(9)) == 1.0


def test_the_nearest_measured_run_is_of_the_same_kind() -> None:
    whole, other, part = (Measured(n, s, 0.1, 0.2) for n, s in ((4, None), (12, None), (9, 3.0)))
    assert nearest((whole, other, part), 9, whole=True) is other
    assert nearest((whole, other, part), 5, whole=False) is part
    assert nearest((part,), 5, whole=True) is part
    assert nearest((), 5, whole=True) is None
    assert nearest((replace(whole, predicted=0.0),), 4, whole=True) is None


def test_a_large_budget_measures_more_runs_on_more_samples() -> None:
    model = Recorded(mixture("ve", SHAPE, components=4, std=0.6))
    found = dode.calibrate(model, noise(16), HIGH, LOW, parametrization="ve", budget=150)
    assert sum(len(x) for x, *_ in model.calls) <= 150 * 16
    assert (found.samples_fit, found.samples_holdout) == (8, 8)
    whole = [m.steps for m in found.measured if m.start is None]
    assert set(whole) > {5, 8, 12}
    beside = [m for m in found.measured if m.built_in is not None]
    assert len(beside) > len([m for m in profile().measured if m.built_in is not None])


def test_half_of_the_samples_are_learned_from() -> None:
    """At least five; those that are neither learned from nor held out pay for more runs."""
    model, seen = mixture("ve", SHAPE, components=4, std=0.6), {}
    for given in (8, 16, 20):
        found = dode.calibrate(model, noise(given), HIGH, LOW, parametrization="ve")
        seen[given] = found.samples_fit, found.samples_holdout
        assert found.evaluations <= 64
    assert seen == {8: (5, 2), 16: (8, 4), 20: (10, 5)}


def test_what_was_measured_is_made_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile brings the tables of the runs that were measured, and they say all that it cost."""
    found = replace(profile(), dropped=1)
    monkeypatch.setattr(dode.Profile, "plan", None)  # nothing is designed
    for m in found.measured:
        table = found.table(m.steps, m.start)
        assert (table.steps, table.evaluations, table.dropped) == (m.steps, found.evaluations, 1)
        first = found.sigma_max if m.start is None else m.start
        assert float(table.sigmas[0]) == pytest.approx(first, rel=1e-9)
