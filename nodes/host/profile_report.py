"""What D-ODE Distill shows of a profile: in words, and what it expects as a plot."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...dode_core.errors import DodeError
from ...dode_core.response.profile import Profile
from ...dode_core.shelf import StoredProfile, closer, table_for
from ...dode_core.tables.table import LambdaTable
from .common import AnySteps

PEERS = {"DPM++ 2M": "dpmpp_2m", "Euler": "ddim", "iPNDM": "ipndm", "DEIS": "deis"}


def tables_of(stored: StoredProfile, grids: Sequence[Tensor], where: str) -> tuple[AnySteps, str]:
    """(the profile with the tables of the runs that were asked for, what to say of them)."""
    profile, tables = stored.profile, []
    lines = [summary(profile)]
    for grid in grids:
        sigmas = grid.tolist()
        table = table_for(profile, sigmas)
        tables.append(table)
        lines.append(f"{len(sigmas) - 1} steps{closer(profile, table, sigmas)}")
    text = "\n".join([*lines, *measured(profile), where])
    logging.info("D-ODE: %s", text.replace("\n", "; "))
    return AnySteps(tables, stored), text


def summary(profile: Profile) -> str:
    """What it is for, and what it took."""
    cfg = "" if profile.cfg is None else f" at cfg {profile.cfg:g}"
    samples = profile.samples_fit + profile.samples_holdout
    name = profile.model_name or "this model"
    text = f"{name}{cfg}: ready for any number of steps, image to image and every schedule"
    text += f" ({samples} samples, {profile.evaluations:.0f} model evaluations each)"
    if profile.dropped:
        text += f"; {profile.dropped} samples were not finite and left out"
    return text


def measured(profile: Profile) -> list[str]:
    """What noise that was kept apart said of some of its tables, against what was expected."""
    found = []
    for each in profile.measured:
        start = "" if each.start is None else f" from sigma {each.start:.3g}"
        numbers = f"{each.measured:.3g} measured, {each.predicted:.3g} expected"
        found.append(f"{each.steps} steps{start}: {numbers}")
    if not found:
        return []
    return ["distance from the many-step image on noise that was kept apart: " + "; ".join(found)]


def plot_profile(
    profile: Profile, tables: Sequence[LambdaTable], grids: Sequence[Tensor]
) -> tuple[Any, str]:
    """(expected distance against steps as a PIL image, or None and why there is none)."""
    try:
        from PIL import Image

        from ...dode_core.report import plot_errors, png

        title = "expected distance from the many-step image"
        figure = plot_errors(curves(profile, tables, grids), title, "distance (RMS, latents)")
        return Image.open(io.BytesIO(png(figure))).convert("RGB"), ""
    except DodeError as error:  # no matplotlib
        return None, str(error)
    except Exception as error:
        logging.exception("D-ODE: the profile could not be drawn.")
        return None, f"No plot: {error}"


def curves(
    profile: Profile, tables: Sequence[LambdaTable], grids: Sequence[Tensor]
) -> dict[str, dict[int, float]]:
    """Expected distances by name and steps: D-ODE's, and built-in samplers' on the same grids."""
    known = [*(each for each in profile.tables if each.learned_sigmas), *tables]
    whole = [each for each in known if float(each.sigmas[0]) > 0.999 * profile.sigma_max]
    ours = {each.steps: profile.expected(each) for each in whole}
    found = {"D-ODE": dict(sorted(ours.items()))}
    for name, solver in PEERS.items():
        found[name] = {}
        for grid in grids:
            try:
                found[name][len(grid) - 1] = profile.expected_plain(solver, grid)
            except DodeError:
                continue  # the schedule goes further than the profile
    return {name: points for name, points in found.items() if points}
