"""Calibration as a hidden sampler: prompts, LoRAs, guidance and memory are the host's own.

The host runs an ordinary image through its pipeline and calls this instead of a sampler. It makes
its own noise, runs teacher and students through the host's guided denoiser, and keeps the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dode_core.fit import few_step
from dode_core.fit.peers import PEERS
from dode_core.fit.steady import EVALUATIONS as STEADY
from dode_core.fit.steady import check_steady
from dode_core.many_tables import best_tables, distill_many
from dode_core.methods import METHODS, Method
from dode_core.refining import seed_for
from dode_core.response.profile import Profile
from dode_core.shelf import table_for
from dode_core.solve.noise import check_sigmas, infer_parametrization, same_sigmas
from dode_core.solve.solvers import SOLVERS
from dode_core.tables.table import LambdaTable

from . import host, starts
from .request import BEST, Request
from .rows import Grid, Progress, Rows, Watched
from .starts import MOVING

ONE_LAMBDA = METHODS["one lambda"]

BY_STEP = (
    "the settings leave guidance out by the number of the step (Skip Early CFG, or NGMS at every "
    "other step), so that another number of steps is another model: what was measured holds for "
    "these steps only; NGMS at all steps goes by the noise level and has no such limit"
)


class HiddenSampler:
    """The sampler function that distills; ``tables`` is its result, ``error`` why there is none.

    Of a request for any number of steps ``profile`` is the result, and ``tables`` what it makes of
    the steps that were named.

    It never raises inside the host's pipeline, which would be left half-way: what went wrong is
    kept, and the host decodes an empty latent.
    """

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self.batch_size = request.batch_size
        self.tables: list[LambdaTable] = []
        self.profile: Profile | None = None
        self.error: BaseException | None = None
        self.note = ""  # what is to be said of the model

    def __call__(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
    ) -> Tensor:
        """Distill; x only tells shape, device and type."""
        try:
            grids = {n: self.grid(model, n) for n in self.request.steps}
            self.look(model, x, list(grids.values()), extra_args or {})
            found: list[LambdaTable] = []
            if self.request.once:
                self.profile = self._calibrate(model, x, list(grids.values()), extra_args or {})
                found = [table_for(self.profile, grid) for grid in grids.values()]
                grids = {}
            for some in same_ends(list(grids.values())):
                found += self._distill(model, x, some, extra_args or {})
            self.tables = found
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the host's interrupt is no Exception
            self.error = error
        return torch.zeros_like(x[:1])

    def grid(self, model: Any, steps: int) -> Grid:
        """The sigmas that this host makes for a step count on the chosen schedule."""
        return check_sigmas(model.sampler.get_sigmas(model.p, steps))

    def look(
        self, model: Any, x: Tensor, grids: Sequence[Grid], extra_args: dict[str, Any]
    ) -> None:
        """Before the work: refuse a step cache, and see whether the model is few-step already.

        Raises :class:`CalibrationError`.
        """
        grid = min(grids, key=len)
        kind = infer_parametrization(model, grid)
        few = few_step.calls(len(grid) - 1, self.request.samples, self.batch_size)
        most = STEADY + (few if grid[-1] == 0 else 0)
        asked = Watched(Rows(model, extra_args, grids), self.progress, most)
        noise = self.noise(x, start_scale(grid[0], kind))
        args = {"rows": torch.arange(self.request.samples) % len(x)}
        check_steady(asked, noise, grid[0], kind, args)
        if grid[-1] == 0:
            said = few_step.already_few_step
            self.note = said(asked, noise, grid, kind, args, batch_size=self.batch_size)
        if host.unguided_by_step(getattr(model, "p", None)):
            self.note = "; ".join(filter(None, (self.note, BY_STEP)))

    def _distill(
        self, model: Any, x: Tensor, grids: Sequence[Grid], extra_args: dict[str, Any]
    ) -> list[LambdaTable]:
        """The tables for grids that start and end alike; with ``best``, one for each.

        Solvers that cost more than one evaluation a step are no candidates for the best.
        """
        request = self.request
        kind = infer_parametrization(model, grids[0])
        begun = starts.of_profile(request, tuple(x.shape[1:]), grids)
        seed = seed_for(request.seed, begun, [starts.scheme(request, kind)])
        noise = self.noise(x, start_scale(grids[0][0], kind), seed)
        rows = torch.arange(request.samples) % len(x)
        denoiser = Rows(model, extra_args, grids)
        found: list[LambdaTable] = []
        parts = plan(request, begun)
        for i, part in enumerate(parts, 1):
            found += part(
                denoiser,
                noise,
                grids,
                extra_args={"rows": rows},
                progress=self._progress(f"part {i} of {len(parts)}"),
                parametrization=kind,
                batch_size=self.batch_size,
                peers=tuple(PEERS),
            )
        return list(best_tables(found).values()) if request.solver == BEST else found

    def _calibrate(
        self, model: Any, x: Tensor, grids: Sequence[Grid], extra_args: dict[str, Any]
    ) -> Profile:
        """A profile over all sigmas that this model has."""
        from dode_core.calibration import calibrate  # not before there is work

        high, low = sigma_range(model, grids)
        kind = infer_parametrization(model, (high,))
        return calibrate(
            Rows(model, extra_args, grids),
            self.noise(x, start_scale(high, kind)),
            high,
            low,
            extra_args={"rows": torch.arange(self.request.samples) % len(x)},
            progress=self._progress("any number of steps"),
            parametrization=kind,
            batch_size=self.batch_size,
        )

    def _progress(self, part: str) -> Callable[[int, int, Tensor], None]:
        def report(done: int, total: int, _: Tensor) -> None:
            self.progress(done, total, part)

        return report

    def noise(self, x: Tensor, scale: float, seed: int | None = None) -> Tensor:
        """Noise by the request's seeds, or others, drawn on the CPU: the same in every host."""
        seed = self.request.seed if seed is None else seed
        rows = []
        for i in range(self.request.samples):
            generator = torch.Generator().manual_seed(seed + i)
            rows.append(torch.randn(x.shape[1:], generator=generator))
        return (torch.stack(rows) * scale).to(x)


def plan(
    request: Request, begun: Sequence[LambdaTable] = ()
) -> list[Callable[..., list[LambdaTable]]]:
    """The calibrations that make up a request, to be called as :func:`dode_core.distill_many`.

    ``begun`` are tables that learning may go on from.
    """
    if request.solver != BEST:
        method = MOVING if request.learn_sigmas else ONE_LAMBDA
        how = settings_of(method)
        return [partial(distill_many, solvers=[request.solver], starts=begun, **how)]
    every = [name for name, each in SOLVERS.items() if each.stages_a_step == 1]  # cost the same
    parts = [partial(distill_many, solvers=every, **settings_of(ONE_LAMBDA))]
    if request.learn_sigmas:
        parts.append(partial(distill_many, solvers=["ddim"], starts=begun, **settings_of(MOVING)))
    return parts


def settings_of(method: Method) -> dict[str, Any]:
    """A method as :func:`dode_core.distill_many` takes it."""
    pair = method.columns, method.gain
    return {"settings": (pair,), "learn_sigmas": method.learn_sigmas}


def sigma_range(model: Any, grids: Sequence[Grid]) -> tuple[float, float]:
    """The first and the last sigma above 0 that a model has, or that the host's schedules use."""
    used = [sigma for grid in grids for sigma in grid if sigma > 0]
    for owner in (model, getattr(model, "inner_model", None)):
        known = getattr(owner, "sigmas", None)
        if known is not None and len(known):
            used += [float(known.max()), float(known[known > 0].min())]
            break
    return max(used), min(used)


def start_scale(sigma: float, parametrization: str) -> float:
    """How large a sample starts, by the host's setting."""
    if parametrization == "ve" and host.option("sgm_noise_multiplier", False):
        return math.sqrt(1 + sigma**2)
    return sigma


def same_ends(grids: Sequence[Grid]) -> list[list[Grid]]:
    """Grids that share a teacher: some schedules start or end elsewhere at every step count."""
    groups: list[list[Grid]] = []
    for grid in grids:
        ends = (grid[0], grid[-1])
        for group in groups:
            if same_sigmas(ends, (group[0][0], group[0][-1])):
                group.append(grid)
                break
        else:
            groups.append([grid])
    return groups
