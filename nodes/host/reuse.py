"""Is there a table already that a distillation would only make again?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...dode_core.match.resolve import brings_sigmas
from ...dode_core.solve.noise import same_sigmas
from ...dode_core.tables.identity import Identity
from ...dode_core.tables.library import Stored
from .calibrate import METHODS, Settings


def find_same(
    stored: Sequence[Stored],
    identity: Identity,
    settings: Settings,
    sigmas: Tensor,
    parametrization: str,
    latent: Any,
) -> Stored | None:
    """The newest table of this very model, with all that is on it, made with these settings."""
    from ...dode_core.fit.stagewise import held_out_count  # not before there is work

    held_out = held_out_count(settings.samples, settings.holdout)
    columns, gain, learn_sigmas = METHODS[settings.method]
    wanted: dict[str, Any] = {
        "solver": settings.solver,
        "parametrization": parametrization,
        "columns": columns,
        "gain": gain,
        "cfg": settings.cfg,
        "seed": settings.seed,
        "samples_fit": settings.samples - held_out,
        "samples_holdout": held_out,
    }
    if not learn_sigmas:  # which has a teacher of its own
        wanted["teacher"] = f"{settings.teacher.solver} x{settings.teacher.substeps}"
        wanted["learned_sigmas"] = False
    if not latent.is_nested:
        wanted["latent_shape"] = tuple(latent.shape[1:])
    grid = sigmas.tolist()
    for each in reversed(stored):
        table = each.table
        same = all(getattr(table, name) == value for name, value in wanted.items())
        ours = identity.compare(table.model_fingerprint).kind == "same"
        fits = same_sigmas(table.sigmas.tolist(), grid) or brings_sigmas(table, grid)
        if same and ours and fits:
            return each
    return None
