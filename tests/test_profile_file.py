"""The profile's file: the same again, and hostile files."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import gaussian, randn
from safetensors.numpy import load, save

import dode_core as dode
from dode_core.response.profile import parse_profile
from dode_core.response.profile_file import dump_profile


@cache
def made() -> dode.Profile:
    found = dode.calibrate(
        gaussian(shape=(2, 6, 6)),
        randn(8, 2, 6, 6) * 15,
        15.0,
        0.05,
        parametrization="ve",
        budget=56,
    )
    return replace(found, tables=(found.table(3),), cfg=3.0, model_name="a model", seed=2**64 - 1)


@cache
def raw() -> bytes:
    return dump_profile(made())


def parts() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    size = int.from_bytes(raw()[:8], "little")
    return load(raw()), json.loads(raw()[8 : 8 + size])["__metadata__"]


def test_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "a.dode-profile"
    made().save(path)
    found = dode.Profile.load(path)
    assert path.read_bytes() == raw()
    assert dump_profile(found) == raw()
    for table in (found.table(4), found.table(3), found.table(3, start=1.0)):
        start = float(table.sigmas[0])
        other = made().table(table.steps, None if start == 15 else start)
        assert torch.equal(table.lambdas, other.lambdas) and torch.equal(table.sigmas, other.sigmas)
    assert found.table(4).cfg == 3.0 and found.table(4).model_name == "a model"


def test_a_failing_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.dode-profile"
    made().save(path)
    broken = replace(made().response, final=made().response.final * np.nan)
    with pytest.raises(dode.TableError, match="finite"):
        replace(made(), response=broken).save(path)
    assert path.read_bytes() == raw()


def test_every_truncation_is_refused() -> None:
    for size in [*range(0, 400, 7), *range(400, len(raw()), 997), len(raw()) - 1]:
        with pytest.raises(dode.TableError):
            parse_profile(raw()[:size])


@pytest.mark.parametrize("key", ["knots", "states", "points.dx", "curve.nu", "points.logs"])
@pytest.mark.parametrize(
    "change",
    [
        lambda v: np.full_like(v, np.nan),
        lambda v: v * np.inf,
        lambda v: v.astype(np.float32),
        lambda v: v[..., :-1],
        lambda v: v[None],
        lambda v: np.full_like(v, 1e200),
        lambda v: np.resize(v, 0),
    ],
)
def test_tensors_that_cannot_be(key: str, change) -> None:  # noqa: ANN001
    tensors, about = parts()
    with np.errstate(invalid="ignore"):
        tensors[key] = np.ascontiguousarray(change(tensors[key]))
    with pytest.raises(dode.TableError, match=r"^profile: "):
        parse_profile(save(tensors, about))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "dode-lambda-tables"),
        ("version", 2),
        ("version", True),
        ("parametrization", "x"),
        ("evaluations", -1),
        ("looks", [1.0] * 9),
        ("mean", [0.0] * 257),
        ("cfg", "3"),
        ("samples", {"fit": 1}),
        ("measured", [{"steps": 3}]),
        ("program", "a\nb"),
        ("more", 1),
    ],
)
def test_descriptions_that_cannot_be(key: str, value: object) -> None:
    tensors, about = parts()
    about["profile"] = json.dumps(json.loads(about["profile"]) | {key: value})
    with pytest.raises(dode.TableError, match=r"^profile: "):
        parse_profile(save(tensors, about))


def test_other_tensors_and_headers() -> None:
    tensors, about = parts()
    with pytest.raises(dode.TableError, match="tensors"):
        parse_profile(save(tensors | {"more": np.zeros(1)}, about))
    with pytest.raises(dode.TableError, match="only text"):
        parse_profile(save(tensors, {"profile": about["profile"], "x": ""}))
    with pytest.raises(dode.TableError, match="header"):
        parse_profile((2**40).to_bytes(8, "little") + raw()[8:])
    with pytest.raises(dode.TableError, match="larger"):
        parse_profile(b"\0" * (17 * 1024 * 1024))


def test_changed_bytes_are_refused_or_serve() -> None:
    """Any profile that is accepted makes tables of finite numbers, or refuses in one sentence."""
    random = np.random.default_rng(0)
    served = 0
    for _ in range(150):
        data = bytearray(raw())
        for _ in range(random.integers(1, 4)):
            at = (
                random.integers(0, len(data)) if random.random() < 0.5 else random.integers(0, 3000)
            )
            data[at] = random.integers(0, 256)
        try:
            found = parse_profile(bytes(data))
            table = found.table(2)
        except dode.DodeError as error:
            assert "\n" not in str(error)
            continue
        served += 1
        assert table.lambdas.isfinite().all() and table.sigmas.isfinite().all()
    assert served > 10
