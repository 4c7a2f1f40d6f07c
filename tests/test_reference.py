"""The fit and the update against the numbers of the paper's own code (see data/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Mixture
from torch import Tensor

import dode_core as dode

DATA = Path(__file__).parent / "data" / "paper_code_small.npz"
with np.load(DATA) as archive:
    ARRAYS = {key: torch.from_numpy(archive[key]) for key in archive.files}
CASES = sorted({key.rpartition("/")[0] for key in ARRAYS if "/" in key})
MODEL = Mixture(ARRAYS["means"], float(ARRAYS["component_std"]))


def tolerance(case: str) -> float:
    """Their DPM-Solver keeps its lambdas in float32."""
    return 1e-6 if case.startswith("dpm_solver") else 1e-10


def reference(case: str, what: str) -> Tensor:
    return ARRAYS[f"{case}/{what}"]


def fit(case: str, batch_size: int = 8) -> dode.LambdaTable:
    return dode.distill(
        MODEL,
        reference(case, "x"),
        reference(case, "sigmas"),
        case.partition("/")[0],
        targets=reference(case, "targets"),
        holdout=0,
        batch_size=batch_size,
    )


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_every_solver_of_the_paper_is_there() -> None:
    solvers = {case.partition("/")[0] for case in CASES}
    assert solvers == set(dode.SOLVERS) - {"deis", "dpmpp_2m"}


@pytest.mark.parametrize("case", CASES)
def test_lambdas(case: str) -> None:
    table = fit(case)
    assert_close(table.lambdas[:, 0], reference(case, "lambdas"), tolerance(case))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_micro_batches_do_not_change_the_lambdas(case: str, batch_size: int) -> None:
    assert_close(fit(case, batch_size).lambdas, fit(case).lambdas, 1e-9)


@pytest.mark.parametrize("batch", ["x", "x_heldout"])
@pytest.mark.parametrize("case", CASES)
def test_distilled_samples(case: str, batch: str) -> None:
    sigmas = reference(case, "sigmas")
    final = dode.sample(MODEL, reference(case, batch), sigmas, disable=True, table=fit(case))
    expected = reference(case, "x_final" if batch == "x" else "x_heldout_final")
    assert_close(final, expected, tolerance(case))


@pytest.mark.parametrize("case", CASES)
def test_their_lambdas_through_our_sampler(case: str) -> None:
    """The update alone, without our fit."""
    sigmas = reference(case, "sigmas")
    lambdas = reference(case, "lambdas")[:, None]
    table = dode.LambdaTable(case.partition("/")[0], sigmas, lambdas)
    final = dode.sample(MODEL, reference(case, "x_heldout"), sigmas, disable=True, table=table)
    assert_close(final, reference(case, "x_heldout_final"), tolerance(case))


@pytest.mark.parametrize("case", CASES)
def test_the_lambdas_matter(case: str) -> None:
    """The plain solver is far from the reference, so the tests above can fail."""
    sigmas, solver = reference(case, "sigmas"), case.partition("/")[0]
    plain = dode.sample(MODEL, reference(case, "x"), sigmas, disable=True, solver=solver)
    assert (plain - reference(case, "x_final")).abs().max() > 1e-3
