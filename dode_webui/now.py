"""What would happen if Generate were pressed now: the line in the accordion."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dode_core import shelf
from dode_core.errors import DodeError
from dode_core.match import between_cfgs
from dode_core.match.best import Choice, Query
from dode_core.match.resolve import Resolution
from dode_core.tables.identity import Identity, marks
from dode_core.tables.likeness import compare

from . import captured, cost, host, options, preview, samplers, sampling
from .preview import Known
from .request import Request
from .sampling import ANY

DISTILL = "Distill for exactly this"  # the other button
LARGEST_PART = 0.999  # of a schedule, as hosts take an image for their start
WORDS = {
    "exact": "exact table",
    "slice": "part of a longer table",
    "interpolated": "a table is carried over",
    "carried over": "a table is carried over from another schedule",
    "profile": "distilled once for any number of steps",
}


def shown(settings: dict[str, Any]) -> str:
    """:func:`line`, and what the two buttons of the accordion cost."""
    return line(settings) + price(settings)


def price(settings: dict[str, Any]) -> str:
    """What the two buttons cost, as HTML; nothing for what they would refuse."""
    try:
        request = Request(**captured.of_request(settings))
        exactly, once = cost.sentence(request), cost.sentence(replace(request, once=True))
    except (DodeError, ValueError):
        return ""
    return f"<div class='dode-cost'>{ANY}: {once}. {DISTILL}: {exactly}.</div>"


def line(settings: dict[str, Any]) -> str:
    """What applies to a run with these settings of the txt2img tab, as HTML."""
    sampler = settings["sampler"]
    if sampler and not samplers.is_ours(sampler):
        said = f"D-ODE acts when it is the sampling method; now that is {sampler}."
    else:
        said = f"Now: {wording(settings)}"
    return f"<div class='dode-now'>{html.escape(said + hires(settings))}</div>"


def wording(settings: dict[str, Any]) -> str:
    """ "8 steps, cfg 6, Karras: exact table (...)" in words that are the tab's."""
    steps, denoise = settings["steps"], settings.get("denoise")
    at = "" if denoise is None else f" at denoise {denoise:g}"
    cfg = host.cfgs(settings["cfg"], settings["distilled_cfg_scale"], True)
    asked = f"{steps} steps{at}, {cfg}, {settings['scheduler']}"
    try:
        if denoise is None:
            found = found_for(settings, preview.sigmas(settings))
        elif host.option("img2img_fix_steps", False):  # just as many are run, of a longer schedule
            found = of_part(settings, int(steps / min(max(denoise, 0.01), LARGEST_PART)), steps)
        else:
            found = of_part(settings, steps, int(min(denoise, LARGEST_PART) * steps) + 1)
    except DodeError as error:
        return f"{asked}: {error}"
    return f"{asked}: {described(found) or f'{nothing(found)}. Distill makes one'}."


def described(found: Choice | str) -> str:
    """What there is for a run, and what is to be said about it; empty where there is nothing."""
    if isinstance(found, str):
        return found
    if found.resolution.table is None:
        return ""
    return described_run(found.resolution, found.doubts)


def described_run(run: Resolution, doubts: Sequence[str] = ()) -> str:
    """What a run uses, whether it was made for its cfg, what it is worth, and what is doubted."""
    kind = WORDS.get(run.kind, "table")
    kind += " between two cfgs" if run.between_cfgs else ""
    worth = "" if doubts else run.worth
    return "; ".join(filter(None, [kind, run.cfg_note, worth, *doubts]))


def nothing(found: Choice | str) -> str:
    """What happens then, and why what is there does not serve."""
    why = f" ({', '.join(found.doubts)})" if isinstance(found, Choice) and found.doubts else ""
    return f"no table{why}, so plain DPM++ 2M runs"


def hires(settings: dict[str, Any]) -> str:
    """What applies to the hires pass; empty where it is off, and for another sampling method."""
    if settings["hires"] is None:
        return ""
    of_pass = {**settings, **settings["hires"]}
    steps, denoise = of_pass["steps"], of_pass["denoise"]
    if of_pass["sampler"] and not samplers.is_ours(of_pass["sampler"]):
        return ""
    try:
        found = of_part(of_pass, int(steps / min(denoise, LARGEST_PART)), steps)
    except DodeError:
        return ""
    both = [
        host.cfgs(each["cfg"], each["distilled_cfg_scale"], True) for each in (of_pass, settings)
    ]
    own = both[:1] if both[0] != both[1] else []
    own += [of_pass["scheduler"]] if of_pass["scheduler"] != settings["scheduler"] else []
    asked = ", ".join([f"{steps} steps at denoise {denoise:g}", *own])
    serves = f"; {ANY} serves both passes"
    return f" Hires pass ({asked}): {described(found) or nothing(found) + serves}."


def of_part(settings: dict[str, Any], whole: int, steps: int) -> Choice | str:
    """:func:`found_for` the last ``steps`` steps of a schedule of ``whole`` steps."""
    known = preview.sigmas({**settings, "steps": whole}, steps)
    return found_for({**settings, "steps": 0}, known)  # a table of as many steps serves no part


def found_for(settings: dict[str, Any], known: Known | None) -> Choice | str:
    """What would be chosen on known sigmas; else, in words, what there is for such a run."""
    table = settings["table"]
    solver = samplers.solver_of(settings["sampler"])
    keep = settings["keep_schedule"]
    query = Query(*known, settings["cfg"], solver, keep_schedule=keep) if known else None
    if table == options.NONE:
        return 'Table is set to "None", so plain DPM++ 2M runs'
    if table != options.AUTOMATIC and not table.startswith(options.INSTEAD):
        return of_chosen(table, query)
    who = host.identity(settings["prompt"], True, settings["distilled_cfg_scale"])
    if query is not None:
        return sampling.decide(query, who)
    return until_known(settings, who, solver)


def until_known(settings: dict[str, Any], who: Identity, solver: str | None) -> str:
    """What there is for a run whose sigmas are not known yet; the order is that of
    :func:`dode_core.shelf.choose`. Empty where there is nothing.
    """
    library, steps = host.library(), settings["steps"]
    profiles = [each.profile for each in shelf.find_profiles(library, who)]
    once = doubts_of(who, settings, profiles if solver in (None, "ddim") else [], mixed=True)
    tables = [
        each.table
        for each in library.find(who)
        if each.table.steps == steps
        and solver in (None, each.table.solver)
        and not (each.table.learned_sigmas and settings["keep_schedule"])
        and not (once and shelf.is_behind(each.table))
    ]
    made = doubts_of(who, settings, tables)
    if not made or (once and made[0]):
        return "; ".join([WORDS["profile"], *once[0]]) if once else ""
    said = f"there is a table for {steps} steps; it is used if it fits"
    said += f", else what was {WORDS['profile']}" if once else ""
    return "; ".join([said, *made[0]])


def doubts_of(
    who: Identity, settings: dict[str, Any], made: Sequence[Any], mixed: bool = False
) -> list[list[str]]:
    """What is to be said of each table or profile for a model, the best first, without sigmas.

    ``mixed``: those whose cfgs enclose the run's serve it together.
    """
    found, cfg = [], settings["cfg"]
    for each in made:
        ours = marked(who, settings["distilled_cfg_scale"], each.model_fingerprint)
        likeness = compare(ours, each.model_fingerprint)
        far = 0.0 if each.cfg is None else abs(each.cfg - cfg)
        both = mixed and any(enclose(each, other, cfg) for other in made)
        note = "" if both else between_cfgs.cfg_note(each.cfg, cfg)
        if likeness.kind != "refused":
            found.append((likeness.distance, far, [*likeness.doubts, *filter(None, [note])]))
    return [doubts for *_, doubts in sorted(found, key=lambda item: item[:2])]


def enclose(one: Any, other: Any, cfg: float) -> bool:
    """Whether two profiles serve a run between their cfgs together."""
    low, high = sorted((one.cfg or 0.0, other.cfg or 0.0))
    alike = one.model_fingerprint == other.model_fingerprint
    return alike and low < cfg < high <= between_cfgs.WIDEST * low


def marked(who: Identity, distilled: float | None, theirs: str) -> str:
    """The model's fingerprint. Before it is loaded, what was made for it tells whether it takes a
    shift or a distilled cfg.
    """
    missing = (marks(theirs).keys() & {"shift", "distilled_cfg"}) - marks(who.fingerprint).keys()
    if distilled is None:
        return who.fingerprint
    return " ".join([who.fingerprint, *(f"{name}:{distilled:g}" for name in sorted(missing))])


def of_chosen(table: str, query: Query | None) -> str:
    """What a table that was chosen by hand is for such a run, in words."""
    try:
        options.chosen(table, host.library())
    except DodeError:
        return "the chosen table is not here, so plain DPM++ 2M runs"
    if query is None:
        return "the chosen table is used if it fits"
    used, _ = sampling.pinned(table, query)
    if used is None:
        return "the chosen table cannot serve this run; what is automatic is used"
    return f"the chosen table ({described_run(used.resolution)})"
