"""Find the table that a distillation would only make again, or make it and keep it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...dode_core.methods import get_method
from ...dode_core.refining import start_for
from ...dode_core.reuse import Recipe, find_same, stamped
from ...dode_core.solve.scheme import Scheme
from ...dode_core.solve.solvers import get_solver
from ...dode_core.tables.table import LambdaTable
from . import calibrate, models, store
from .distill_report import summary
from .live import Live


@dataclass(frozen=True)
class Work:
    """A distillation: of what, on which noise levels, how, and where its table goes.

    ``named``: the file was the user's own choice, so that tables elsewhere do not count.
    """

    guider: Any
    latent: Any
    sigmas: Tensor
    settings: calibrate.DistillSettings
    identity: models.Identity
    file: Path
    named: bool = False


def find_or_make(
    work: Work, live: Live, reuse: bool = True, left: int = 1
) -> tuple[LambdaTable, str]:
    """(a table, what was done for it); ``left``: the tables still to make, this one included."""
    found = find(work) if reuse else None
    if found is not None:
        return found.table, f"found in {store.shown(found.file)}, nothing to do"
    if live.teller is not None:
        steps = len(work.sigmas) - 1
        live.teller.part(f"{get_solver(work.settings.solver).label} for {steps} steps", left)
    began = time.monotonic()
    start = start_of(work)
    settings = replace(work.settings, start=start)
    table = calibrate.calibrate(work.guider, work.latent, work.sigmas, settings, live)
    table, where = keep(table, work)
    where += ", learned on from this model's profile" if start is not None else ""
    said = f"\n{live.note}" if live.note else ""
    return table, f"{time.monotonic() - began:.1f} s, {where}{said}"


def make_all(works: Sequence[Work], live: Live, again: bool) -> tuple[list[LambdaTable], str]:
    """A table each, and what to say of them; each is saved as soon as it is made."""
    tables, said = [], []
    for i, work in enumerate(works):
        table, where = find_or_make(work, live, reuse=not again, left=len(works) - i)
        text = f"{summary(table)}\n{where}"
        logging.info("D-ODE: %s", text.replace("\n", "; "))
        tables.append(table)
        said.append(text if len(works) == 1 else f"{table.describe()}; {where}")
    return tables, "\n".join(said)


def find(work: Work) -> store.Stored | None:
    """The table that is there already."""
    stored = [store.Stored(table, work.file) for table in store.tables_in(work.file)]
    stored = stored if work.named else store.find(work.identity)
    return find_same(stored, work.identity, recipe_of(work))


def recipe_of(work: Work) -> Recipe:
    """What the table would be made by."""
    settings, latent = work.settings, work.latent
    method = get_method(settings.method)
    kind = models.parametrization(work.guider.model_patcher)
    return Recipe(
        scheme=Scheme(settings.solver, kind, method.directions),
        grid=work.sigmas.tolist(),
        learn_sigmas=method.learn_sigmas,
        samples=settings.samples,
        holdout=settings.holdout,
        seed=settings.seed,
        cfg=settings.cfg,
        teacher=None if method.learn_sigmas else settings.teacher.name,
        latent_shape=None if latent.is_nested else tuple(latent.shape[1:]),
    )


def start_of(work: Work) -> LambdaTable | None:
    """The table that this model's profile has for the run, where its lambdas are what is learned.

    None where the profile leaves the run to built-in rows, and for other solvers.
    """
    if not get_method(work.settings.method).learn_sigmas or work.latent.is_nested:
        return None
    stored, shape = store.find_profiles(work.identity), tuple(work.latent.shape[1:])
    grid = work.sigmas.tolist()
    found = start_for(stored, work.identity, work.settings.cfg, shape, grid)
    return found if found is not None and found.scheme == recipe_of(work).scheme else None


def keep(table: LambdaTable, work: Work) -> tuple[LambdaTable, str]:
    """Save the table with what it was made for; (that table, where it went)."""
    table = stamped(table, work.identity, work.settings.cfg, work.settings.seed)
    file, note = store.save(table, work.identity, work.file)
    return table, f"saved in {store.shown(file)}{note}"
