"""A distillation from request to result: calibrate, save, show."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dode_core import shelf
from dode_core.errors import CalibrationError, DodeError
from dode_core.response.profile import Profile
from dode_core.reuse import stamped
from dode_core.solve.solvers import get_solver
from dode_core.tables.table import LambdaTable

from . import cost, host, job, samplers
from .calibration import HiddenSampler
from .main_thread import on_main_thread
from .options import NONE, ON_RUN, Options, table_id
from .request import Request

SHOWN = 4  # step counts in the gallery
REFERENCE_STEPS = 40


@dataclass
class Outcome:
    """Tables, where they are, and pictures: (PIL image, caption)."""

    tables: list[LambdaTable]
    file: Path
    shown: str
    note: str
    seconds: float
    settings: str = ""  # what a table applies to, for people
    pictures: list[tuple[Any, str]] = field(default_factory=list)

    def summary(self) -> list[str]:
        """What was made and what it is worth, a line each."""
        lines = [f"{table.describe()} [{table_id(table)}]" for table in self.tables]
        lines.append(f"saved in {self.shown}" + (f"; {self.note}" if self.note else ""))
        lines.append(f"{job.duration(self.seconds)} in all")
        lines.append(f"Now pick {samplers.NAME} as sampling method, {self.settings}.")
        return lines


def begin(request: Request, pictures: bool = True) -> job.Job:
    """Start a distillation. Raises :class:`job.Busy`."""
    return job.start(partial(work, partial(body, request, pictures)))


def begin_timing(request: Request) -> job.Job:
    """Start timing one evaluation at the request's size; a sentence is the result."""
    return job.start(partial(work, partial(timing, request)))


def work(body: Callable[[job.Job], Any], running: job.Job) -> Any:
    """The whole of it, with the host to itself."""
    from modules import call_queue, shared

    with call_queue.queue_lock:
        if running.stop.is_set():
            raise job.Cancelled("Cancelled; nothing was written.")
        running.state = job.RUNNING
        shared.state.begin(job="D-ODE distill")
        try:
            with no_prompt_history():
                return on_main_thread(partial(body, running))
        finally:
            samplers.unhide()
            shared.state.end()
            for flag in ("interrupted", "skipped", "stopping_generation"):
                if hasattr(shared.state, flag):
                    setattr(shared.state, flag, False)


@contextlib.contextmanager
def no_prompt_history() -> Iterator[None]:
    """Leave the last image's parameters alone, which the host keeps for its paste button."""
    from modules import shared

    had = getattr(shared.cmd_opts, "no_prompt_history", None)
    shared.cmd_opts.no_prompt_history = True
    try:
        yield
    finally:
        shared.cmd_opts.no_prompt_history = had


def body(request: Request, pictures: bool, running: job.Job) -> Outcome:
    """On the host's thread: tables first, files only when all are there, pictures last."""
    began = time.monotonic()
    check_target()
    host.load_model()
    if request.distilled_cfg_scale is None:
        request = replace(request, distilled_cfg_scale=host.default_distilled_cfg())
    calibration = HiddenSampler(request, partial(report, running))
    run(request, samplers.hide(calibration, request.scheduler), batch(request), request.steps[-1])
    if calibration.error is not None:
        stopped = type(calibration.error).__name__ == "InterruptedException"
        if stopped or (isinstance(calibration.error, job.Cancelled)):
            raise job.Cancelled("Cancelled; nothing was written.") from None
        raise calibration.error
    if not calibration.tables:
        raise CalibrationError("The host did not run the calibration; see its console for why.")
    if calibration.profile is not None:
        tables, file, note = keep_profile(calibration.profile, calibration.tables, request)
    else:
        tables, file, note = keep(calibration.tables, request)
    note = "; ".join(filter(None, (note, calibration.note)))
    outcome = Outcome(tables, file, host.library().shown(file), note, time.monotonic() - began)
    what = f"{request.scheduler} as schedule type, {', '.join(map(str, request.steps))} steps"
    what = "any steps and schedule, img2img and hires too" if request.once else what
    outcome.settings = f"{what}, {host.cfgs(request.cfg, request.distilled_cfg_scale)}"
    for line in outcome.summary():
        logging.info("D-ODE: %s", line)
    if pictures:
        with contextlib.suppress(job.Cancelled):  # the tables are there all the same
            for picture in compare(outcome.tables, request, running):
                outcome.pictures.append(picture)
    return outcome


def timing(request: Request, running: job.Job) -> str:
    """On the host's thread: time one evaluation, for what is said about cost."""
    host.load_model()
    watch = cost.Stopwatch()
    one = replace(request, batch_size=1, prompts=request.prompts[:1])
    run(one, samplers.hide(watch, request.scheduler), 1, request.steps[-1])
    if watch.error is not None:
        raise watch.error
    if watch.seconds is None:
        raise CalibrationError("The host did not run the timing; see its console for why.")
    cost.remember(request, watch.seconds)
    return f"One evaluation takes {watch.seconds:.2g} s."


def check_target() -> None:
    """Refuse before the work when the file to be written is there and is no table file."""
    who = host.identity(upcoming=True)
    if who.path is not None:
        host.library().target(who)


def report(running: job.Job, done: int, total: int, part: str) -> None:
    """Progress for the panel and for the host's own bar and API."""
    from modules import shared

    shared.state.sampling_steps, shared.state.sampling_step = total, done
    running.progress(done, total, part)


def batch(request: Request) -> int:
    """How many rows of conditioning the host prepares: every prompt, and a micro-batch's memory."""
    return max(len(request.prompts), min(request.batch_size, request.samples))


def run(
    request: Request, sampler: str, count: int, steps: int, options: Options | None = None
) -> Any:
    """One ordinary text-to-image run of the host that saves nothing; its result."""
    from modules import processing, scripts, shared

    prompts = [request.prompts[i % len(request.prompts)] for i in range(count)]
    settings = {
        "sd_model": shared.sd_model,
        "prompt": prompts,
        "negative_prompt": [request.negative] * count,
        "seed": [request.seed] * count,
        "batch_size": count,
        "n_iter": 1,
        "steps": steps,
        "cfg_scale": request.cfg,
        "distilled_cfg_scale": request.distilled_cfg_scale,
        "width": request.width,
        "height": request.height,
        "sampler_name": sampler,
        "scheduler": request.scheduler,
        "do_not_save_samples": True,
        "do_not_save_grid": True,
    }
    kind: Any = processing.StableDiffusionProcessingTxt2Img
    known = set(getattr(kind, "__dataclass_fields__", settings))  # a plain class takes them all
    settings = {key: value for key, value in settings.items() if key in known}
    with contextlib.closing(kind(**settings)) as p:
        p.scripts = scripts.ScriptRunner()
        p.script_args = ()
        if options is not None:
            setattr(p, ON_RUN, options)
        return processing.process_images(p)


def keep(tables: list[LambdaTable], request: Request) -> tuple[list[LambdaTable], Path, str]:
    """Save tables with what they were made for; (those tables, where, a note)."""
    who = host.identity(request.prompts[0], distilled=request.distilled_cfg_scale)
    made = [stamped(table, who, request.cfg, request.seed) for table in tables]
    library = host.library()
    return made, *library.save(made, who, library.home(who))


def keep_profile(
    profile: Profile, tables: list[LambdaTable], request: Request
) -> tuple[list[LambdaTable], Path, str]:
    """Save a profile with what it was made for; (its tables likewise, where, a note)."""
    distilled = request.distilled_cfg_scale
    who = host.identity(request.prompts[0], distilled=distilled)
    made = shelf.stamped_profile(profile, who, request.cfg, request.seed)
    named = [stamped(table, who, request.cfg, request.seed) for table in tables]
    return named, *shelf.save_profile(host.library(), made, who)


def compare(
    tables: list[LambdaTable], request: Request, running: job.Job
) -> Iterator[tuple[Any, str]]:
    """The same noise without a table, with it, and with many steps."""
    some = tables if len(tables) <= SHOWN else tables[:: -(-len(tables) // SHOWN)]
    reference = f"{REFERENCE_STEPS} steps, no table"
    shots: list[tuple[str, int, Options]] = []
    for table in some:
        name = get_solver(table.solver).label
        shots.append((f"{table.steps} steps, no table", table.steps, Options(NONE)))
        shots.append((f"{table.steps} steps, {name}", table.steps, Options(given=(table,))))
        shots.append((reference, REFERENCE_STEPS, Options(NONE)))
    converged: Any = None  # one for all rows
    for i, (caption, steps, options) in enumerate(shots, 1):
        running.message = f"picture {i} of {len(shots)}"
        if running.stop.is_set() or host.interrupted():
            raise job.Cancelled("Cancelled.")
        if caption == reference and converged is not None:
            yield converged, caption
            continue
        try:
            result = run(request, sampler_for(request), 1, steps, options)
        except DodeError as error:
            logging.warning("D-ODE: no picture of %s: %s", caption, error)
            continue
        if result.images:
            converged = result.images[0] if caption == reference else converged
            yield result.images[0], caption


def sampler_for(request: Request) -> str:
    """The menu entry that runs the request's schedule."""
    in_name = not host.schedule_names() and request.scheduler == "Karras"
    return f"{samplers.NAME} Karras" if in_name else samplers.NAME
