"""Which of the stored tables is trusted most for a model, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..solve.noise import same_sigmas
from ..tables.identity import Identity
from ..tables.library import Stored
from ..tables.likeness import Likeness, compare
from ..tables.table import LambdaTable
from .resolve import Resolution, brings_sigmas, resolve

KEEP_SCHEDULE = (  # what a user reads of it
    "On: the noise levels stay those of your schedule, and only the steps between them are "
    "corrected. Off: where a table has noise levels of its own, which end nearer, those are used."
)


@dataclass(frozen=True)
class Query:
    """What a run asks of tables: its grid and whatever else decides which may serve."""

    grid: Sequence[float]
    parametrization: str = "ve"
    cfg: float | None = None
    solver: str | None = None
    channels: int | None = None
    highest: float | None = None  # the model's highest sigma
    keep_schedule: bool = False  # the run stays on its grid, whatever table serves it

    def pick(self, tables: Sequence[LambdaTable]) -> Resolution:
        """The best of some tables; those of another solver than the one asked for are left out, and
        with ``keep_schedule`` those that would bring other sigmas.
        """
        usable = [each for each in tables if self.solver in (None, each.solver)]
        if self.keep_schedule:
            grid = self.grid
            usable = [
                each
                for each in usable
                if not brings_sigmas(each, grid) or same_sigmas(each.sigmas.tolist(), grid)
            ]
        return resolve(
            usable,
            self.grid,
            solver=self.solver,
            cfg=self.cfg,
            parametrization=self.parametrization,
            channels=self.channels,
            highest=self.highest,
        )


@dataclass(frozen=True)
class Choice:
    """What a run uses, the file it is from, and what a user should know, most important first."""

    resolution: Resolution
    file: Path | None = None
    doubts: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """What is used, and what it is worth where nothing about it is in doubt; :attr:`note`."""
        said = self.resolution.message if self.doubts else self.resolution.said
        return said + self.note

    @property
    def note(self) -> str:
        """The file and the doubts, to be put behind the resolution's message."""
        said = [f"from {self.file.name}"] if self.file and self.resolution.table else []
        said += self.doubts
        return f" ({', '.join(said)})" if said else ""


def best(
    stored: Sequence[Stored],
    identity: Identity | None,
    pick: Callable[[Sequence[LambdaTable]], Resolution],
) -> Choice:
    """The best table made for exactly this model; else for it with little changed, else any.

    Tables for another prediction type or sigma range are left out; ``pick`` chooses among those
    that are trusted alike.
    """
    own = identity.fingerprint if identity else ""
    alike = [(compare(own, each.table.model_fingerprint), each) for each in stored]
    allowed = [(likeness, each) for likeness, each in alike if likeness.kind != "refused"]
    resolution = pick([each.table for _, each in allowed])
    for most in sorted({likeness.distance for likeness, _ in allowed}):
        trusted = [each.table for likeness, each in allowed if likeness.distance <= most]
        found = pick(trusted)
        if found.table is not None:
            resolution = found
            break
    if resolution.table is None:
        return Choice(resolution, doubts=_refusal(alike))
    likeness, each = next(pair for pair in allowed if pair[1].table is resolution.table)
    return Choice(resolution, each.file, likeness.doubts)


def first_of(
    own: Sequence[LambdaTable],
    stored: Callable[[], Sequence[Stored]],
    identity: Identity | None,
    pick: Callable[[Sequence[LambdaTable]], Resolution],
) -> Choice:
    """A user's ``own`` tables where they serve; else the best of the ``stored`` ones, which is
    said.

    Own tables are used for another model as well, with its differences named, but not across
    prediction types and sigma ranges.
    """
    if not own:
        return best(stored(), identity, pick)
    print_ = identity.fingerprint if identity else ""
    alike = [(compare(print_, table.model_fingerprint), table) for table in own]
    resolution = pick([table for likeness, table in alike if likeness.kind != "refused"])
    if resolution.table is not None:
        likeness = next(each for each, table in alike if table is resolution.table)
        known = bool(print_ and resolution.table.model_fingerprint)
        return Choice(resolution, doubts=likeness.doubts if known else ())
    refused = [likeness.note for likeness, _ in alike if likeness.kind == "refused"]
    high, *_, low = own[0].sigmas.tolist()
    made_for = f"made for {own[0].steps} steps from sigma {high:.4g} to {low:.4g}"
    why = f"the connected table does not serve this run: it was {(refused or [made_for])[0]}"
    found = best(stored(), identity, pick)
    return replace(found, doubts=(why, *found.doubts))


def _refusal(alike: Sequence[tuple[Likeness, Stored]]) -> tuple[str, ...]:
    """Why tables that are there were not even looked at."""
    for likeness, each in alike:
        if likeness.kind == "refused":
            return (f"{each.file.name} is left out: {likeness.note}",)
    return ()
