"""What a distillation goes on from: the tables of this model's profile for the runs asked for."""

from __future__ import annotations

from collections.abc import Sequence

from dode_core.errors import DodeError
from dode_core.methods import METHODS
from dode_core.refining import start_for
from dode_core.shelf import StoredProfile, find_profiles
from dode_core.solve.scheme import Scheme
from dode_core.tables.identity import Identity
from dode_core.tables.table import LambdaTable

from . import host, preview, samplers
from .request import BEST, Request
from .rows import Grid

MOVING = METHODS["columns and sigmas"]


def scheme(request: Request, kind: str) -> Scheme:
    """Of the tables whose sigmas are learned; a start of another scheme brings its sigmas only."""
    solver = "ddim" if request.solver == BEST else request.solver
    return Scheme(solver, kind, MOVING.directions)


def of_profile(
    request: Request, shape: tuple[int, ...], grids: Sequence[Grid]
) -> list[LambdaTable]:
    """The tables that this model's profile has for ``grids``; none where sigmas stay as they are.

    shape: of one latent.
    """
    if not request.learn_sigmas:
        return []
    stored, who = _stored(request)
    found = [start_for(stored, who, request.cfg, shape, grid) for grid in grids]
    return [table for table in found if table is not None]


def known_steps(request: Request) -> tuple[int, ...]:
    """The step counts of a request that is not carried out yet whose learning goes on from a
    profile. None are known before the model is loaded, which says where its runs start.
    """
    if request.once or not request.learn_sigmas:
        return ()
    stored, who = _stored(request, upcoming=True)
    size = request.height // 8, request.width // 8
    shapes = {each.profile.latent_shape for each in stored}
    shapes = {shape for shape in shapes if shape[-2:] == size}
    return tuple(
        n for n in request.steps if any(_serves(request, stored, who, s, n) for s in shapes)
    )


def _serves(
    request: Request,
    stored: Sequence[StoredProfile],
    who: Identity,
    shape: tuple[int, ...],
    steps: int,
) -> bool:
    asked = {
        "sampler": samplers.NAME, "scheduler": request.scheduler, "steps": steps,
        "cfg": request.cfg, "width": request.width, "height": request.height,
        "distilled_cfg_scale": request.distilled_cfg_scale,
    }  # fmt: skip
    try:
        known = preview.sigmas(asked)
    except DodeError:
        return False
    if known is None:
        return False
    grid, kind = known
    start = start_for(stored, who, request.cfg, shape, grid)
    return start is not None and start.scheme == scheme(request, kind)


def _stored(request: Request, upcoming: bool = False) -> tuple[list[StoredProfile], Identity]:
    who = host.identity(request.prompts[0], upcoming, request.distilled_cfg_scale)
    return find_profiles(host.library(), who), who
