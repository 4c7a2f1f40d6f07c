"""What D-ODE Distill shows of a profile: in words, and what it expects as a plot."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...dode_core.errors import DodeError
from ...dode_core.fit.peers import hosts_kind
from ...dode_core.response.profile import Profile
from ...dode_core.shelf import StoredProfile, table_for
from ...dode_core.tables.fields import PEER_LABELS
from ...dode_core.tables.table import LambdaTable
from ...dode_core.worth import closer, compared_runs, measured_worth, peer_name
from .any_steps import AnySteps

PEERS = ("dpmpp_2m", "ddim", "ipndm", "deis")
TITLE, DISTANCE = "expected distance from the many-step image", "distance (RMS, latents)"


def tables_of(stored: StoredProfile, grids: Sequence[Tensor], where: str) -> tuple[AnySteps, str]:
    """(the profile with the tables of the runs that were asked for, what to say of them)."""
    profile, tables, expected = stored.profile, [], []
    known = {each.steps for each in compared_runs(profile)}
    for grid in grids:
        sigmas, steps = grid.tolist(), len(grid) - 1
        tables.append(table_for(profile, sigmas))
        words = closer(profile, tables[-1], sigmas)
        if words and steps not in known:
            expected.append(f"{words} at {steps} steps")
    worth = measured_worth(profile, len(grids[0]) - 1)
    first = [worth, ready(profile), *expected] if worth else [*expected, ready(profile)]
    text = "\n".join([*first, *measured(profile), where])
    logging.info("D-ODE: %s", text.replace("\n", "; "))
    return AnySteps(tables, stored), text


def summary(profile: Profile) -> str:
    """What it is worth, where that was measured; what it is for, and what it took."""
    return "\n".join(filter(None, [measured_worth(profile), ready(profile)]))


def ready(profile: Profile) -> str:
    """What it is for, and what it took."""
    cfg = "" if profile.cfg is None else f" at cfg {profile.cfg:g}"
    samples = profile.samples_fit + profile.samples_holdout
    text = "ready for any number of steps, image to image and every schedule: "
    text += f"{profile.model_name or 'this model'}{cfg}"
    text += f" ({samples} samples, {profile.evaluations:.0f} model evaluations each)"
    if profile.dropped:
        text += f"; {profile.dropped} samples were not finite and left out"
    return text


def measured(profile: Profile) -> list[str]:
    """What noise that was kept apart said of some of its tables, against what was expected."""
    found = []
    for each in profile.measured:
        start = "" if each.start is None else f" from sigma {each.start:.3g}"
        numbers = f"{each.steps} steps{start} {each.measured:.3g} ({each.predicted:.3g})"
        if each.built_in is not None:
            numbers += f", {peer_name(each)} {each.built_in:.3g}"
        found.append(numbers)
    if not found:
        return []
    what = "distance from the many-step image on noise kept apart, measured (expected): "
    return [what + "; ".join(found)]


def plot_profile(
    profile: Profile, tables: Sequence[LambdaTable], grids: Sequence[Tensor]
) -> tuple[Any, str]:
    """(expected distance against steps as a PIL image, or None and why there is none)."""
    try:
        from PIL import Image

        from ...dode_core.report import plot_bars, plot_errors, png

        found = curves(profile, tables, grids)
        counts = {steps for points in found.values() for steps in points}
        if len(counts) > 1:
            figure = plot_errors(found, TITLE, DISTANCE)
        else:  # a curve of one point shows nothing
            bars = {name: value for name, points in found.items() for value in points.values()}
            figure = plot_bars(bars, f"{TITLE}, {counts.pop()} steps", DISTANCE)
        return Image.open(io.BytesIO(png(figure))).convert("RGB"), ""
    except DodeError as error:  # no matplotlib
        return None, str(error)
    except Exception as error:
        logging.exception("D-ODE: the profile could not be drawn.")
        return None, f"No plot: {error}"


def curves(
    profile: Profile, tables: Sequence[LambdaTable], grids: Sequence[Tensor]
) -> dict[str, dict[int, float]]:
    """Expected distances by name and steps: D-ODE's, and built-in samplers' on the same grids.

    Ours are raised by as much as held-out samples ended above what was expected of them.
    """
    ours = {each.steps: profile.expected(each) * profile.optimism(each) for each in tables}
    found = {"D-ODE": ours}
    for solver in PEERS:
        name, kind = PEER_LABELS[solver], hosts_kind(solver, profile.parametrization)
        found[name] = {}
        for grid in grids:
            try:
                found[name][len(grid) - 1] = profile.expected_plain(solver, grid, kind)
            except DodeError:
                continue  # the schedule goes further than the profile
    return {name: points for name, points in found.items() if points}
