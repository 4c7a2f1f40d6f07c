"""The preset folder: what may be added, what the index refuses, and measuring again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import made_up, same

import dode_core as dode
from dode_core.__main__ import main
from dode_core.tables import library, presets
from dode_core.tables.identity import Identity

MADE = {
    "model_name": "dreamer",
    "model_fingerprint": "file:0123456789abcdef",
    "cfg": 7.0,
    "seed": 0,
    "latent_shape": (4, 64, 64),
    "samples_fit": 12,
    "samples_holdout": 4,
}


def good(solver: str = "ddim", **changes: Any) -> dode.LambdaTable:
    return made_up(solver, **{**MADE, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dreamer.dode.json"
    dode.save_tables(path, [good(), good("heun", cfg=3.0)])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "lambdas"
    path.mkdir()
    return path


def run(*arguments: object) -> int:
    return main(["presets", *map(str, arguments)])


# Adding


def test_add_and_list(file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("add", file, "--folder", folder, "--note", "portraits") == 0
    assert run("list", "--folder", folder) == 0
    line = "dreamer.dode.json: 2 tables for dreamer, ddim, heun, 4 steps, cfg 3, 7; portraits"
    assert capsys.readouterr().out.count(line) == 2
    (preset,) = presets.read_index(folder)
    tables = presets.load_preset(folder, preset)
    assert all(same(a, b) for a, b in zip(tables, dode.load_tables(file), strict=True))
    assert run("verify", "--folder", folder) == 0


def test_a_newer_file_takes_the_place_of_the_old(file: Path, folder: Path) -> None:
    presets.add_preset(folder, file)
    good(draw=5, cfg=1.0).save(file)
    presets.add_preset(folder, file)
    (preset,) = presets.read_index(folder)
    assert preset.tables == 3 and preset.cfgs == (1.0, 3.0, 7.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_name": ""}, "lacks the model's name"),
        ({"model_fingerprint": ""}, "lacks the model's fingerprint"),
        ({"cfg": None}, "lacks cfg"),
        ({"seed": None}, "lacks the seed"),
        ({"latent_shape": ()}, "lacks the latent's shape"),
        ({"samples_holdout": 3}, "lacks 4 samples held out"),
        ({"error": None}, "no held-out error"),
        ({"error": 1.01}, "error 1.01 of plain"),
        ({"model_fingerprint": "file:0 patches:1"}, "with a LoRA"),
    ],
)
def test_what_may_not_be_shared(
    changes: dict[str, Any], words: str, tmp_path: Path, folder: Path, capsys: Any
) -> None:
    path = tmp_path / "a.dode.json"
    dode.save_tables(path, [good("heun"), good(**changes)])
    assert run("add", path, "--folder", folder) == 1
    assert words in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_names_of_added_files(tmp_path: Path, folder: Path, capsys: Any) -> None:
    path = tmp_path / "a;b.dode.json"
    dode.save_tables(path, [good()])
    assert run("add", path, "--folder", folder) == 1
    assert "is not usable" in capsys.readouterr().err and not list(folder.iterdir())


# The index


def test_a_file_that_was_changed_is_not_read(file: Path, folder: Path, capsys: Any) -> None:
    presets.add_preset(folder, file)
    good(draw=9).save(folder / file.name)
    assert run("verify", "--folder", folder) == 1
    assert "not the file that the index describes" in capsys.readouterr().err


EDITS: list[tuple[str, Any]] = [
    ("file", "../dreamer.dode.json"),
    ("file", "/etc/passwd"),
    ("file", "con.dode.json"),
    ("file", "a.json"),
    ("file", None),
    ("sha256", "0" * 63),
    ("sha256", "G" * 64),
    ("tables", -1),
    ("tables", 1.5),
    ("model", "\x1b[31m"),
    ("models", []),
    ("models", "file:0"),
    ("steps", []),
    ("steps", ["4"]),
    ("cfgs", [None]),
    ("solvers", [1]),
    ("note", "x" * 301),
    ("url", "http://"),
]


@pytest.mark.parametrize(("key", "value"), EDITS, ids=str)
def test_an_index_that_is_not_valid(key: str, value: Any, file: Path, folder: Path) -> None:
    presets.add_preset(folder, file)
    document = json.loads((folder / "index.json").read_text())
    document["presets"][0][key] = value
    (folder / "index.json").write_text(json.dumps(document))
    with pytest.raises(dode.TableError, match=r"^index\.json: "):
        presets.read_index(folder)


def test_a_link_out_of_the_folder(file: Path, folder: Path) -> None:
    preset = presets.add_preset(folder, file)
    (folder / file.name).unlink()
    (folder / file.name).symlink_to(file)
    with pytest.raises(dode.TableError, match="link out of"):
        presets.load_preset(folder, preset)


# What hosts see


@pytest.fixture
def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(library, "PRESETS", folder)
    return folder


def test_hosts_read_the_index(file: Path, shipped: Path, tmp_path: Path) -> None:
    """Listed and found by fingerprint; files for other models are not even opened."""
    presets.add_preset(shipped, file)
    dode.save_tables(shipped / "stranger.dode.json", [good()])  # not in the index
    (tmp_path / "own").mkdir()
    books = library.Library((("presets", str(shipped)),), tmp_path / "own", "own")
    assert list(books.listing()) == ["presets/dreamer.dode.json"]
    ours = Identity(None, "x", "weights:1 file:0123456789abcdef patches:2")
    assert [each.table.solver for each in books.find(ours)] == ["ddim", "heun"]
    assert not books.find(Identity(None, "x", "weights:1 file:fedcba9876543210"))
    library._load.cache_clear()
    (shipped / file.name).write_text("{}")
    assert not books.find(Identity(None, "x", "file:fedcba9876543210"))  # not opened, no warning
    assert not books.find(ours)  # opened, and not what the index says
    with pytest.raises(dode.TableError, match="not the file that the index describes"):
        library.tables_in(books.find_file("presets/dreamer.dode.json"))


def test_a_broken_index_costs_the_presets_only(shipped: Path, tmp_path: Path) -> None:
    (shipped / "index.json").write_text("{")
    (tmp_path / "own").mkdir()
    good().save(tmp_path / "own" / "mine.dode.json")
    roots = (("presets", str(shipped)), ("own", str(tmp_path / "own")))
    books = library.Library(roots, tmp_path / "own", "own")
    assert list(books.listing()) == ["own/mine.dode.json"]
    assert len(books.find(Identity(None, "x", "file:0123456789abcdef"))) == 1


def test_what_is_shipped_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Every solver for both demo models, none worse than plain as it was made."""
    assert main(["presets", "verify"]) == 0
    found = presets.read_index(library.PRESETS)
    assert {preset.model for preset in found} == {"emoji_edm", "emoji_flow"}
    for preset in found:
        assert set(preset.solvers) == set(dode.SOLVERS)
        steps = range(4, 21)
        assert preset.steps == tuple(steps)
        tables = presets.load_preset(library.PRESETS, preset)
        assert {(t.solver, t.steps) for t in tables} == {
            (solver, n) for solver in dode.SOLVERS for n in steps
        }
    listed = {path.name for path in library.PRESETS.glob("*.dode.json")}
    assert listed == {preset.file for preset in found}


# Measuring again

MEASURED = ("dpmpp_2m", "distilled")
DISTIL = ["distill", "--demo", "emoji_edm", "--steps", "4", "--samples", "8"]


def test_verify_measures_on_the_users_own_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim holds on new noise; a table with its sign turned is refused."""
    monkeypatch.chdir(tmp_path)
    assert main(DISTIL) == 0
    check = ["verify", "emoji_edm.dode.json", "--demo", "emoji_edm", "--samples", "8"]
    assert run(*check) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "claimed" in line)
    claimed = float(line.split("claimed ")[1].split()[0])
    plain = float(line.split("plain ")[1].split(",")[0])
    distilled = float(line.split("distilled ")[1].split(":")[0])
    assert distilled < 0.95 * plain and abs(distilled / plain - claimed) < 0.2
    (table,) = dode.load_tables("emoji_edm.dode.json")
    dode.save_tables("bad.dode.json", [replace(table, lambdas=-table.lambdas)])
    check[1] = "bad.dode.json"
    assert run(*check) == 1
    out, err = capsys.readouterr()
    assert "WORSE than plain" in out and "1 of 1 tables are worse than what they were" in err


def check_adding_a_profile(file: Path, folder: Path, capsys: Any) -> None:
    """With 8 samples 2 are held out, too few to be shared; with 4 its tables are a preset."""
    assert run("add", file, "--folder", folder) == 1
    assert "is a profile, and this folder takes tables; say for which" in capsys.readouterr().err
    assert run("add", file, "--steps", "4-6", "--folder", folder) == 1
    assert "lacks 4 samples held out" in capsys.readouterr().err and not folder.exists()
    profile = dode.Profile.load(file)
    made = tuple(replace(table, samples_holdout=4) for table in profile.tables)
    profile = replace(profile, samples_holdout=4, tables=made)
    profile.save(more := file.with_name("my once.dode-profile"))
    assert run("add", more, "--steps", "4-6", "--note", "emoji", "--folder", folder) == 0
    (preset,) = presets.read_index(folder)
    assert preset.file == "my_once.dode.json" and preset.steps == (4, 5, 6)
    assert preset.note == f"emoji; {presets.EXPECTED}"
    for table in presets.load_preset(folder, preset):
        assert same(table, profile.table(table.steps))
        assert not table.worth  # no gain is claimed for what nobody measured
    assert run("verify", "--folder", folder, "--demo", "emoji_edm", "--samples", "4") == 0
    out = capsys.readouterr().out
    assert out.count("dpmpp_2m 0.") == 3 and "claimed" not in out


def test_verify_measures_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On new noise, beside DPM++ 2M: 8 steps end nearer; another kind of model is refused."""
    file = str(tmp_path / "once.dode-profile")
    how = ["distill", "--demo", "emoji_edm", "--any-steps", "--samples", "8", "--out", file]
    assert main(how) == 0
    check_adding_a_profile(Path(file), tmp_path / "shared", capsys)
    assert run("verify", file) == 0
    assert "once.dode-profile: 3 tables, in order" in capsys.readouterr().out
    check = ["verify", file, "--samples", "8", "--steps", "8", "--demo"]
    assert run(*check, "emoji_edm") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "8 steps" in line)
    errors = [float(line.split(f"{word} ")[1].split(",")[0].split(":")[0]) for word in MEASURED]
    assert errors[1] < 0.8 * errors[0] and line.endswith("ok") and "claimed" not in line
    assert run(*check, "emoji_flow") == 1
    assert "is for ve models, emoji_flow is flow" in capsys.readouterr().err


def test_verify_refuses_another_kind_of_model(tmp_path: Path, capsys: Any) -> None:
    good(sigmas=torch.tensor([80.0, 5.0, 1.0, 0.3, 0.0])).save(tmp_path / "a.dode.json")
    assert run("verify", tmp_path / "a.dode.json", "--demo", "emoji_flow") == 1
    assert "is for ve models, emoji_flow is flow" in capsys.readouterr().err
    good().save(tmp_path / "b.dode.json")
    assert run("verify", tmp_path / "b.dode.json", "--demo", "emoji_edm") == 1
    assert "starts at sigma 15" in capsys.readouterr().err
    assert run("verify", tmp_path / "b.dode.json", "--demo", "emoji_edm", "--steps", "9") == 1
    assert "No table of these is for emoji_edm" in capsys.readouterr().err


def test_verify_on_a_diffusers_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hosts.pipelines import write_pipeline

    write_pipeline(tmp_path / "sd", "sd")
    options = ["--diffusers", str(tmp_path / "sd"), "--device", "cpu"]
    assert main(["distill", *options, "--steps", "4", "--samples", "8", "--cfg", "2"]) == 0
    assert run("verify", tmp_path / "sd.dode.json", *options, "--samples", "4") in (0, 1)
    assert "ddim 4 steps cfg 2: plain" in capsys.readouterr().out
