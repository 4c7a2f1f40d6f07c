"""Tables that are there already: the methods to make one, what makes two alike, and the stamp.

Every host, and the command line, asks here before it distills, and stamps what it has made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .fit.batches import held_out_count
from .match.resolve import was_asked_for
from .solve.noise import same_sigmas
from .solve.scheme import Scheme
from .tables.identity import Identity
from .tables.library import Stored
from .tables.table import LambdaTable


@dataclass(frozen=True)
class Recipe:
    """All that a table follows from but the model: made again, it would be the same.

    ``teacher`` and ``latent_shape`` are None where they do not matter: learned sigmas have a
    teacher of their own.
    """

    scheme: Scheme
    grid: Sequence[float]
    learn_sigmas: bool
    samples: int
    holdout: float
    seed: int | None
    cfg: float | None
    teacher: str | None = None
    latent_shape: tuple[int, ...] | None = None

    def made(self, table: LambdaTable) -> bool:
        """Whether a table was made by this recipe, samples that were not finite left out."""
        wanted: dict[str, Any] = {"scheme": self.scheme, "cfg": self.cfg, "seed": self.seed}
        if not self.learn_sigmas:
            wanted["learned_sigmas"] = False
        if self.teacher is not None:
            wanted["teacher"] = self.teacher
        if self.latent_shape is not None:
            wanted["latent_shape"] = self.latent_shape
        if not all(getattr(table, name) == value for name, value in wanted.items()):
            return False
        held_out = held_out_count(self.samples, self.holdout)
        samples = table.samples_fit + table.samples_holdout + table.dropped
        as_many = samples == self.samples and (table.dropped or table.samples_holdout == held_out)
        fits = same_sigmas(table.sigmas.tolist(), self.grid)
        fits |= self.learn_sigmas and was_asked_for(table, self.grid)
        return bool(as_many and fits)


def find_same(stored: Sequence[Stored], identity: Identity, recipe: Recipe) -> Stored | None:
    """The newest table of this very model, with all that is on it, made by this recipe."""
    for each in reversed(stored):
        same = identity.compare(each.table.model_fingerprint).kind == "same"
        if same and recipe.made(each.table):
            return each
    return None


def stamped(
    table: LambdaTable, identity: Identity, cfg: float | None, seed: int | None
) -> LambdaTable:
    """The table with what it was made for."""
    return replace(
        table,
        model_name=identity.name,
        model_fingerprint=identity.fingerprint,
        cfg=cfg,
        seed=seed,
    )
