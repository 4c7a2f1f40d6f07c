"""Profiles beside their checkpoints, and the run that one of them serves.

A profile's file is ``<checkpoint>.<cfg>-<mark>.dode-profile``, beside the checkpoint or in the
host's own folder; the mark is of all that the model is known by, so that no other's is overwritten.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from .errors import DodeError, SigmasError
from .match.best import Choice, Query, first_of
from .match.between_cfgs import SAME_CFG, cfg_note, mixed
from .match.resolve import Resolution
from .response.profile import SUFFIX, Profile
from .tables.identity import Identity, digest
from .tables.library import Library, Stored, plain_stem, table_files, version
from .tables.likeness import compare
from .tables.table import LambdaTable
from .worth import closer

UNKNOWN_CFG_DISTANCE = 1.0  # a profile that does not say its cfg ranks with one that is 1 off


@dataclass(frozen=True)
class StoredProfile:
    """A profile and the file it is in."""

    profile: Profile
    file: Path


def profile_file(
    library: Library, identity: Identity, cfg: float | None, own: bool = False
) -> Path:
    """Where a profile of this model at this cfg lies: beside its checkpoint, or (``own``, and for
    models without a file) in the host's own folder.
    """
    guidance = "any" if cfg is None else f"cfg{cfg:g}"
    name = f"{plain_stem(identity)}.{guidance}-{digest([identity.fingerprint])[:8]}{SUFFIX}"
    folder = library.own if own or identity.path is None else identity.path.parent
    return folder / name


def stamped_profile(
    profile: Profile, identity: Identity, cfg: float | None, seed: int | None
) -> Profile:
    """The profile with what it was made for."""
    return replace(
        profile,
        model_name=identity.name,
        model_fingerprint=identity.fingerprint,
        cfg=cfg,
        seed=seed,
    )


def save_profile(
    library: Library, profile: Profile, identity: Identity, file: Path | None = None
) -> tuple[Path, str]:
    """(where a stamped profile went, a note); ``file`` is a user's own choice.

    Replaces only the profile of this very model and cfg. Raises :class:`TableError`.
    """
    if file is not None:
        return library.keep(profile.save, file, file)
    beside, own = [profile_file(library, identity, profile.cfg, own) for own in (False, True)]
    return library.keep(profile.save, beside, own)


def find_profiles(library: Library, identity: Identity) -> list[StoredProfile]:
    """The profiles that were made for these weights, whatever was put on them.

    A file that is not valid is named in the log and does not keep others from being found.
    """
    roots = [root for _, root in library.roots]
    if identity.path is not None:
        roots.append(str(identity.path.parent))
    found = []
    for name in dict.fromkeys(file for root in roots for file in table_files(root, SUFFIX)):
        file = Path(name)
        try:
            profile = load_profile(file)
        except OSError:
            continue  # gone since it was listed
        except DodeError as error:
            logging.warning("D-ODE: %s It is left out.", error)
            continue
        if identity.same_model(profile.model_fingerprint):
            found.append(StoredProfile(profile, file))
    return found


def load_profile(file: Path) -> Profile:
    """The profile in a file, kept in memory while the file stays the same.

    Raises :class:`TableError`, and OSError for a file that is gone.
    """
    return _load(*version(file))


@lru_cache(maxsize=16)
def _load(path: str, _mtime: int, _size: int) -> Profile:
    return Profile.load(path)


def find_same_profile(
    stored: Sequence[StoredProfile], identity: Identity, cfg: float | None, shape: tuple[int, ...]
) -> StoredProfile | None:
    """The profile that a calibration would only make again: every mark, cfg and shape agree."""
    for each in stored:
        alike = compare(identity.fingerprint, each.profile.model_fingerprint).kind == "same"
        if alike and _distance(each.profile, cfg) < SAME_CFG and each.profile.latent_shape == shape:
            return each
    return None


def choose(
    query: Query,
    identity: Identity | None,
    own: Sequence[LambdaTable],
    stored: Callable[[], Sequence[Stored]],
    profiles: Callable[[], Sequence[StoredProfile]],
) -> Choice:
    """What a run uses: a table that was made for just this run, else a profile, else what fits.

    A profile of just this model also comes before a table that was measured behind a built-in one.
    ``own`` tables (connected, pinned) come first wherever they serve. Where the query keeps its
    schedule a profile's rows are for the run's own grid; otherwise it brings its sigmas, from the
    run's first to its last.
    """
    found = first_of(own, stored, identity, query.pick)
    served = found.resolution.table is not None
    if served and (own and any(found.resolution.table is table for table in own)):
        return found
    exact = served and found.resolution.kind in ("exact", "slice") and not found.doubts
    if exact and not is_behind(found.resolution.table):
        return found
    if identity is None:
        return found
    made, why = serve(profiles(), identity, query)
    if made is None or (exact and made.doubts):
        return replace(found, doubts=(*found.doubts, why)) if why and not served else found
    refused = found.doubts[:1] if own else ()
    return replace(made, doubts=(*refused, *made.doubts))


def is_behind(table: LambdaTable | None) -> bool:
    """Whether a built-in sampler ended nearer on the noise that measured the table."""
    if table is None or table.best_peer is None or table.errors is None:
        return False
    ours = table.errors.distilled_holdout
    return ours is not None and table.best_peer[1] < ours


def serve(
    stored: Sequence[StoredProfile], identity: Identity, query: Query
) -> tuple[Choice | None, str]:
    """(what the nearest profile makes of a run, or None; why none of those that are there serves).

    The nearest has the fewest differences in what is on the model, then in cfg. Where two of the
    same model enclose the run's cfg, its table is a mixture of theirs.
    """
    ranked = []
    for each in stored:
        likeness = compare(identity.fingerprint, each.profile.model_fingerprint)
        if likeness.kind != "refused" and _takes(each.profile, query):
            key = likeness.distance, _distance(each.profile, query.cfg)
            ranked.append((key, likeness.doubts, each))
    why = ""
    for (_, far), doubts, each in sorted(ranked, key=lambda item: item[0]):
        try:
            table = table_for(each.profile, query.grid, query.keep_schedule)
        except SigmasError as error:
            why = f"{each.file.name} does not serve this run: {str(error).rstrip('.')}"
            continue
        if far > SAME_CFG and each.profile.cfg is not None and query.cfg is not None:
            alike = [other.profile for _, more, other in ranked if more == doubts]
            between, other = _between(each.profile, table, alike, query)
            if between is not None:
                return Choice(served(each.profile, between, query, other), each.file, doubts), ""
            doubts = (*doubts, cfg_note(each.profile.cfg, query.cfg))
        return Choice(served(each.profile, table, query), each.file, doubts), ""
    return None, why


def _between(
    profile: Profile, table: LambdaTable, others: Sequence[Profile], query: Query
) -> tuple[LambdaTable | None, float | None]:
    """(``table`` mixed with that of the nearest profile across the run's cfg, or None; its cfg)."""
    asked = query.cfg or 0.0
    off = {(other.cfg or 0.0) - asked: other for other in others}
    for each in sorted(off, key=abs):
        if each * ((profile.cfg or 0.0) - asked) < 0:
            with contextlib.suppress(SigmasError):
                there = table_for(off[each], query.grid, query.keep_schedule)
                if (found := mixed(table, there, asked)) is not None:
                    return found, off[each].cfg
    return None, None


def _takes(profile: Profile, query: Query) -> bool:
    channels = len(profile.mean or ())
    return (
        profile.parametrization == query.parametrization
        and query.solver in (None, "ddim")
        and (not channels or query.channels in (None, channels))
    )


def _distance(profile: Profile, cfg: float | None) -> float:
    if profile.cfg is None or cfg is None:
        return 0.0 if profile.cfg == cfg else UNKNOWN_CFG_DISTANCE
    return abs(profile.cfg - cfg)


def table_for(profile: Profile, grid: Sequence[float], keep_schedule: bool = False) -> LambdaTable:
    """The profile's table for a run over ``grid``. Raises :class:`SigmasError`.

    A run that ends above 0 (leftover noise, the first of two experts) keeps its grid.
    """
    if len(grid) < 2:
        raise SigmasError("the run has one sigma, which makes no step")
    if keep_schedule or grid[-1] > 0:
        return profile.table(sigmas=grid)
    return profile.table(len(grid) - 1, float(grid[0]))


def served(
    profile: Profile, table: LambdaTable, query: Query, other_cfg: float | None = None
) -> Resolution:
    """A run of a profile's ``table``, and the sentence about it; ``other_cfg``: of the profile that
    it was mixed with, and then no gain is claimed.
    """
    grid, whole = query.grid, abs(query.grid[0] / profile.sigma_max - 1) < 1e-3
    message = f"profile: {len(grid) - 1} steps" + ("" if whole else f" from sigma {grid[0]:.4g}")
    message += ", on its own noise levels" if table.learned_sigmas else ", on your schedule"
    worth = closer(profile, table, grid) if other_cfg is None else ""
    if other_cfg is not None:
        low, high = sorted((profile.cfg or 0.0, other_cfg))
        message += f", between the profiles of cfg {low:g} and {high:g}"
    rows = [tuple(row) for row in table.lambdas.tolist()]
    how = table.solver, table.parametrization, table.stages, rows, table, message
    return Resolution("profile", *how, between_cfgs=other_cfg is not None, worth=worth)
