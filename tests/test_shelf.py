"""Profiles beside their checkpoints: where they lie, which serves a run, what comes first."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import karras, mixture, randn

import dode_core as dode
from dode_core import shelf
from dode_core.match.best import Query
from dode_core.tables.identity import Identity
from dode_core.tables.library import Library, Stored

HIGH, LOW = 15.0, 0.03
MODEL = mixture("ve", (2, 4, 4))


@pytest.fixture(scope="module")
def profile() -> dode.Profile:
    x = randn(8, 2, 4, 4, seed=5) * HIGH
    return dode.calibrate(MODEL, x, HIGH, LOW, parametrization="ve")


@pytest.fixture(scope="module")
def other() -> dode.Profile:
    """Of a model that answers differently, as the same one does at another cfg."""
    x = randn(8, 2, 4, 4, seed=5) * HIGH
    model = mixture("ve", (2, 4, 4), std=0.5)
    return dode.calibrate(model, x, HIGH, LOW, parametrization="ve")


def who(path: Path | None, patches: str = "") -> Identity:
    extra = f" patches:{patches}" if patches else ""
    return Identity(path, path.name if path else "m", f"weights:{'1' * 16}{extra}")


def library(folder: Path) -> Library:
    return Library((("own", str(folder / "own")),), folder / "own", "models/dode")


def keep(folder: Path, profile: dode.Profile, identity: Identity, cfg: float) -> Path:
    made = shelf.stamped_profile(profile, identity, cfg, 0)
    return shelf.save_profile(library(folder), made, identity)[0]


def query(steps: int, cfg: float | None = 2.0, **how: object) -> Query:
    return Query(tuple(karras(steps, LOW, HIGH).tolist()), "ve", cfg, **how)  # type: ignore[arg-type]


def chosen(folder: Path, identity: Identity, asked: Query, **how: object) -> shelf.Choice:
    tables: list[Stored] = how.pop("tables", [])  # type: ignore[assignment]
    own = how.pop("own", [])
    found = shelf.find_profiles(library(folder), identity)
    return shelf.choose(asked, identity, own, lambda: tables, lambda: found, **how)  # type: ignore[arg-type]


def test_every_cfg_and_lora_has_a_file_of_its_own(tmp_path: Path, profile: dode.Profile) -> None:
    model = tmp_path / "model.safetensors"
    files = {
        keep(tmp_path, profile, who(model, patches), cfg)
        for cfg in (2.0, 7.5)
        for patches in ("", "a" * 16)
    }
    assert len(files) == 4 and {file.parent for file in files} == {tmp_path}
    assert all(file.name.startswith("model.cfg") for file in files)
    assert all(not file.name.endswith(".safetensors") for file in files)
    again = keep(tmp_path, profile, who(model), 2.0)
    assert again in files and len(shelf.find_profiles(library(tmp_path), who(model))) == 4


def test_a_model_without_a_file_has_it_in_the_own_folder(
    tmp_path: Path, profile: dode.Profile
) -> None:
    assert keep(tmp_path, profile, who(None), 2.0).parent == tmp_path / "own"
    assert len(shelf.find_profiles(library(tmp_path), who(None))) == 1
    other = Identity(None, "other", f"weights:{'2' * 16}")
    assert shelf.find_profiles(library(tmp_path), other) == []


def test_any_run_is_served(tmp_path: Path, profile: dode.Profile) -> None:
    model = who(tmp_path / "model.safetensors")
    keep(tmp_path, profile, model, 2.0)
    for steps in (3, 5, 9):
        found = chosen(tmp_path, model, query(steps))
        assert found.resolution.kind == "profile" and not found.doubts
        assert len(found.resolution.stages) == steps
        assert found.resolution.table is not None and found.resolution.table.learned_sigmas
        kept = chosen(tmp_path, model, query(steps, keep_schedule=True)).resolution
        assert [stage.sigma for stage in kept.stages] == pytest.approx(query(steps).grid[:-1])
    part = query(8).grid[3:]
    found = chosen(tmp_path, model, replace(query(8), grid=part)).resolution
    assert found.stages[0].sigma == pytest.approx(part[0]) and "from sigma" in found.message
    above = query(8).grid[:4]
    found = chosen(tmp_path, model, replace(query(8), grid=above)).resolution
    assert found.stages[-1].sigma_next == pytest.approx(above[-1])


def test_between_two_cfgs_the_tables_of_both_profiles_are_mixed(
    tmp_path: Path, profile: dode.Profile, other: dode.Profile
) -> None:
    """Sigmas and lambdas lie between theirs, nothing is claimed, and nothing is extrapolated."""
    model = who(tmp_path / "model.safetensors")
    keep(tmp_path, profile, model, 2.0)
    assert chosen(tmp_path, model, query(6, 3.0)).doubts == ("made at cfg 2, this run uses 3",)
    keep(tmp_path, other, model, 4.0)
    for asked, weight in ((3.0, 0.5), (2.5, 0.25), (3.9, 0.95)):
        for keep_schedule in (False, True):
            found = chosen(tmp_path, model, query(6, asked, keep_schedule=keep_schedule))
            table = found.resolution.table
            assert not found.doubts and found.resolution.between_cfgs and table is not None
            assert found.resolution.message.endswith(", between the profiles of cfg 2 and 4")
            assert table.cfg == asked and table.errors is None
            grid = query(6).grid
            a, b = (shelf.table_for(each, grid, keep_schedule) for each in (profile, other))
            mean = (1 - weight) * a.lambdas + weight * b.lambdas
            torch.testing.assert_close(table.lambdas, mean)
            logs = [t.sigmas[:-1].log() for t in (a, b)]
            torch.testing.assert_close(
                table.sigmas[:-1].log(), (1 - weight) * logs[0] + weight * logs[1]
            )
            if a.look_ahead is not None and not keep_schedule:
                assert table.look_ahead is not None
    keep(tmp_path, other, model, 13.0)  # more than three times the next
    for asked in (1.0, 5.0):
        assert "made at cfg" in chosen(tmp_path, model, query(6, asked)).doubts[0]
    assert chosen(tmp_path, model, query(6, 4.0)).resolution.message.startswith("profile: 6 steps")
    assert not chosen(tmp_path, model, query(6, 4.0)).resolution.between_cfgs


def test_profiles_of_other_loras_are_not_mixed(
    tmp_path: Path, profile: dode.Profile, other: dode.Profile
) -> None:
    path = tmp_path / "model.safetensors"
    keep(tmp_path, profile, who(path), 2.0)
    keep(tmp_path, other, who(path, "a" * 16), 4.0)
    found = chosen(tmp_path, who(path), query(6, 3.0))
    assert not found.resolution.between_cfgs and "made at cfg 2" in found.doubts[-1]


def test_what_it_runs_is_what_the_profile_says(tmp_path: Path, profile: dode.Profile) -> None:
    model = who(tmp_path / "model.safetensors")
    keep(tmp_path, profile, model, 2.0)
    x = randn(4, 2, 4, 4, seed=9) * HIGH
    found = chosen(tmp_path, model, query(6))
    ours = dode.run_resolved(MODEL, x, found.resolution, disable=True)
    table = profile.table(6)
    direct = dode.sample(MODEL, x, table.sigmas, table=table, disable=True)
    torch.testing.assert_close(ours, direct)


def test_another_cfg_is_said_and_the_nearest_is_taken(
    tmp_path: Path, profile: dode.Profile
) -> None:
    model = who(tmp_path / "model.safetensors")
    keep(tmp_path, profile, model, 2.0)
    keep(tmp_path, profile, model, 7.0)
    found = chosen(tmp_path, model, query(6, cfg=8.0))
    assert found.doubts == ("made at cfg 7, this run uses 8",)
    assert chosen(tmp_path, model, query(6, cfg=7.0)).doubts == ()


def test_another_lora_is_named(tmp_path: Path, profile: dode.Profile) -> None:
    path = tmp_path / "model.safetensors"
    keep(tmp_path, profile, who(path), 2.0)
    found = chosen(tmp_path, who(path, "b" * 16), query(6))
    assert found.resolution.kind == "profile" and found.doubts


def test_what_a_profile_does_not_cover_is_said(tmp_path: Path, profile: dode.Profile) -> None:
    model = who(tmp_path / "model.safetensors")
    keep(tmp_path, profile, model, 2.0)
    beyond = Query((80.0, 5.0, 1.0, 0.0), "ve", 2.0)
    found = chosen(tmp_path, model, beyond)
    assert found.resolution.kind == "uncalibrated"
    assert "80" in found.doubts[-1] and "15" in found.doubts[-1]
    for unfit in (
        query(6, solver="heun"),
        query(6, channels=3),
        replace(query(6), parametrization="flow"),
    ):
        grid = unfit.grid if unfit.parametrization == "ve" else (1.0, 0.5, 0.0)
        assert chosen(tmp_path, model, replace(unfit, grid=grid)).resolution.kind != "profile"


def test_a_table_for_just_this_run_comes_first(tmp_path: Path, profile: dode.Profile) -> None:
    model = who(tmp_path / "model.safetensors")
    keep(tmp_path, profile, model, 2.0)
    x = randn(4, 2, 4, 4, seed=6) * HIGH
    table = dode.distill(MODEL, x, karras(6, LOW, HIGH), parametrization="ve")
    table = replace(table, model_fingerprint=model.fingerprint, cfg=2.0)
    stored = [Stored(table, tmp_path / "model.dode.json")]
    assert chosen(tmp_path, model, query(6), tables=stored).resolution.kind == "exact"
    assert chosen(tmp_path, model, query(7), tables=stored).resolution.kind == "profile"
    assert chosen(tmp_path, model, query(6), own=[table]).resolution.table is table


def test_a_kept_schedule_leaves_out_tables_of_other_sigmas(
    tmp_path: Path, profile: dode.Profile
) -> None:
    """A table with learned sigmas would bring its own; on those themselves it serves."""
    model = who(tmp_path / "model.safetensors")
    table = replace(profile.table(6), model_fingerprint=model.fingerprint, cfg=2.0)
    stored = [Stored(table, tmp_path / "model.dode.json")]
    assert chosen(tmp_path, model, query(6), tables=stored).resolution.table is table
    kept = query(6, keep_schedule=True)
    found = chosen(tmp_path, model, kept, tables=stored)
    assert found.resolution.table is None
    assert [stage.sigma for stage in found.resolution.stages] == pytest.approx(kept.grid[:-1])
    own = replace(kept, grid=table.sigmas.tolist())
    assert chosen(tmp_path, model, own, tables=stored).resolution.table is table
    assert chosen(tmp_path, model, kept, own=[table]).resolution.table is None


def test_a_table_behind_a_built_in_sampler_gives_way(tmp_path: Path, profile: dode.Profile) -> None:
    """To a profile of just this model; not to one with a doubt, and not where there is none."""
    model = who(tmp_path / "model.safetensors")
    x = randn(4, 2, 4, 4, seed=6) * HIGH
    how = {"parametrization": "ve", "peers": ("dpmpp_2m",)}
    table = dode.distill(MODEL, x, karras(6, LOW, HIGH), **how)
    table = replace(table, model_fingerprint=model.fingerprint, cfg=2.0)
    assert table.errors and table.errors.distilled_holdout
    ours = table.errors.distilled_holdout

    def kind(peer: float) -> str:
        stored = [Stored(replace(table, peer_errors={"dpmpp_2m": peer * ours}), tmp_path / "t")]
        return chosen(tmp_path, model, query(6), tables=stored).resolution.kind

    assert kind(0.8) == "exact"
    file = keep(tmp_path, profile, model, 7.0)
    assert kind(0.8) == "exact"
    file.unlink()
    keep(tmp_path, profile, model, 2.0)
    assert kind(0.8) == "profile"
    assert kind(1.2) == "exact"


def test_a_damaged_file_is_left_out(
    tmp_path: Path, profile: dode.Profile, caplog: pytest.LogCaptureFixture
) -> None:
    model = who(tmp_path / "model.safetensors")
    file = keep(tmp_path, profile, model, 2.0)
    file.write_bytes(file.read_bytes()[:500])
    assert chosen(tmp_path, model, query(6)).resolution.kind == "uncalibrated"
    assert "left out" in caplog.text


def test_made_again_only_where_something_differs(tmp_path: Path, profile: dode.Profile) -> None:
    path = tmp_path / "model.safetensors"
    keep(tmp_path, profile, who(path), 2.0)
    found = shelf.find_profiles(library(tmp_path), who(path))
    assert shelf.find_same_profile(found, who(path), 2.0, (2, 4, 4)) is not None
    assert shelf.find_same_profile(found, who(path), 2.5, (2, 4, 4)) is None
    assert shelf.find_same_profile(found, who(path, "c" * 16), 2.0, (2, 4, 4)) is None
    assert shelf.find_same_profile(found, who(path), 2.0, (2, 8, 8)) is None


def test_what_is_expected_is_lowered_by_what_was_measured(profile: dode.Profile) -> None:
    """A profile whose held-out samples ended far above its expectation claims nothing."""
    table, grid = profile.table(6), query(6).grid
    assert profile.expected(table) < profile.expected_plain("dpmpp_2m", grid)
    sure = replace(profile, measured=())
    assert "closer to the many-step image than DPM++ 2M" in shelf.closer(sure, table, grid)
    steps, expected = profile.measured[0].steps, profile.measured[0].predicted
    off = replace(profile.measured[0], steps=steps, measured=1e6 * expected)
    unsure = replace(profile, measured=(off,))
    assert "about as close" in shelf.closer(unsure, table, grid)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (0.05, "expected much closer"),
        (0.5, "expected 50% closer"),
        (0.99, "expected about as close"),
        (math.inf, ""),
    ],
)
def test_no_number_where_a_simulation_says_little(
    ours: float, said: str, profile: dode.Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = profile.table(3)
    monkeypatch.setattr(dode.Profile, "expected_plain", lambda *_: 1.0)
    monkeypatch.setattr(dode.Profile, "expected", lambda *_: ours)
    found = shelf.closer(replace(profile, measured=()), table, table.sigmas.tolist())
    assert said in found and bool(found) == bool(said)
