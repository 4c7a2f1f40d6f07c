"""Is there a table already that a distillation would only make again?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..dode_core.table import same_sigmas
from .calibrate import Settings
from .models import Identity
from .store import Stored


def find_same(
    stored: Sequence[Stored],
    identity: Identity,
    settings: Settings,
    sigmas: Tensor,
    parametrization: str,
    latent: Any,
) -> Stored | None:
    """The newest table of this very model, LoRAs included, made with these settings."""
    held_out = 0
    if settings.holdout > 0:
        held_out = min(settings.samples - 1, max(1, round(settings.holdout * settings.samples)))
    wanted: dict[str, Any] = {
        "solver": settings.solver,
        "parametrization": parametrization,
        "columns": 1,
        "gain": False,
        "learned_sigmas": False,
        "cfg": settings.cfg,
        "seed": settings.seed,
        "teacher": f"{settings.teacher.solver} x{settings.teacher.substeps}",
        "samples_fit": settings.samples - held_out,
        "samples_holdout": held_out,
    }
    if not latent.is_nested:
        wanted["latent_shape"] = tuple(latent.shape[1:])
    grid = sigmas.tolist()
    for each in reversed(stored):
        table, mark = each.table, each.table.model_fingerprint
        same = all(getattr(table, name) == value for name, value in wanted.items())
        ours = identity.same_model(mark) and identity.same_patches(mark)
        if same and ours and same_sigmas(table.sigmas.tolist(), grid):
            return each
    return None
