"""A profile for one checkpoint after the other; what is there already is not made again."""

from __future__ import annotations

from pathlib import Path

from ..calibration import QUICK_BUDGET, calibrate, check_samples
from ..errors import CalibrationError
from ..fit import distributed
from ..fit.guarded import Progress
from ..response.profile import Profile
from ..shelf import StoredProfile, find_same_profile, load_profile, stamped_profile
from .batch import Plan
from .loading import Loaded


def profile_checkpoint(
    loaded: Loaded, plan: Plan, file: Path, progress: Progress | None = None
) -> tuple[Profile, bool]:
    """Make and save the profile that serves any number of steps, unless ``file`` is one already.

    (the profile, whether it was made now). Process 0 writes. Raises :class:`DodeError`.
    """
    check_samples(plan.samples)
    there = None if plan.again else _there(loaded, plan, file)
    if there is not None:
        return there, False
    profile = calibrate(
        loaded.model,
        loaded.noise(plan.samples, plan.seed),
        loaded.high,
        loaded.low,
        extra_args=loaded.conditions(plan.samples, plan.cfg),
        parametrization=loaded.parametrization,
        holdout=plan.holdout,
        budget=plan.budget or QUICK_BUDGET,
        progress=progress,
        batch_size=plan.batch_size,
    )
    profile = stamped_profile(profile, loaded.identity, plan.cfg, plan.seed)
    distributed.all_well()
    if distributed.rank() == 0:
        profile.save(file)
    return profile, True


def _there(loaded: Loaded, plan: Plan, file: Path) -> Profile | None:
    """The profile in the file, None where there is no file.

    Raises :class:`DodeError` for one that is not of this checkpoint, cfg and size: it is not lost.
    """
    try:
        stored = StoredProfile(load_profile(file), file)
    except OSError:
        return None
    shape = tuple(loaded.shape)
    if find_same_profile([stored], loaded.identity, plan.cfg, shape) is None:
        other = stored.profile
        cfg = "any cfg" if other.cfg is None else f"cfg {other.cfg:g}"
        raise CalibrationError(
            f"{file.name} is of {other.model_name or 'another model'} at {cfg}, size "
            f"{'x'.join(map(str, other.latent_shape))}, not of {loaded.name} at cfg {plan.cfg:g}, "
            f"size {'x'.join(map(str, shape))}; give another --out, or --again to replace it."
        )
    return stored.profile
