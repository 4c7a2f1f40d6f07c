"""What a distillation costs, before it begins: evaluations counted, and minutes once one is timed.

The count comes from the plan itself, carried out on a model that costs nothing and stopped after
its first call, which knows the total.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dode_core.errors import DodeError
from dode_core.fit import few_step
from dode_core.fit.counting import most_evaluations
from dode_core.fit.steady import EVALUATIONS as STEADY
from dode_core.tables.table import LambdaTable

from . import host, job, starts
from .request import Request, RequestError

ONCE = "Any steps: once, for every run"
QUICK, BEST = "Quick: one correction a step", "Best: sigmas distilled too"
_seconds: dict[tuple[Any, ...], float] = {}  # one evaluation of one sample, by model and size


def evaluations(request: Request) -> int:
    """Model evaluations of one latent, at most; guidance's two halves count as one.

    Fewer where learning goes on from a profile, as far as that is known (:mod:`.starts`).
    """
    plain = replace(request, batch_size=1, prompts=("",), negative="")
    return _evaluations(plain, starts.known_steps(request))


@lru_cache(maxsize=256)
def _evaluations(request: Request, begun: tuple[int, ...]) -> int:
    from dode_core.calibration import QUICK_BUDGET
    from dode_core.fit.peers import PEERS

    from .calibration import plan

    look = STEADY + few_step.evaluations(min(request.steps), request.samples)
    if request.once:
        return QUICK_BUDGET * request.samples + look

    grids = [[1.0, *(0.9 - 0.8 * i / n for i in range(n - 1)), 0.0] for n in request.steps]
    how: dict[str, Any] = {"parametrization": "ve", "peers": tuple(PEERS)}
    tables = [_untold(request, grid) for grid in grids if len(grid) - 1 in begun]

    def count(part: Callable[..., Any]) -> int:
        def work(model: Any, x: Tensor, **more: Any) -> Any:
            return part(model, x, grids, **how, **more)

        return most_evaluations(work, request.samples)

    return sum(map(count, plan(request, tables))) + look


def _untold(request: Request, grid: Sequence[float]) -> LambdaTable:
    """A table to go on from that says nothing but that there is one."""
    scheme = starts.scheme(request, "ve")
    return LambdaTable.of(scheme, grid, torch.zeros(len(scheme.stages(grid)), scheme.width))


def key(request: Request) -> tuple[Any, ...]:
    """What the time of an evaluation depends on."""
    return host.checkpoint(upcoming=True), request.width, request.height, request.cfg == 1


def remember(request: Request, seconds: float) -> None:
    """Keep what one evaluation of one sample took."""
    _seconds[key(request)] = seconds


def sentence(request: Request) -> str:
    """ "at most 1,280 evaluations, about 3 min" as far as it is known."""
    count = evaluations(request)
    seconds = _seconds.get(key(request))
    text = f"at most {count:,} evaluations"
    return text if seconds is None else f"{text}, about {job.duration(count * seconds)}"


def choices(request: Request) -> str:
    """Every effort with its cost, for the line under the button."""
    try:
        once = _once(request)
        quick, best = (
            sentence(replace(request, once=False, learn_sigmas=learn)) for learn in (False, True)
        )
        text = f"Any steps: {once} Quick: {quick}. Best: {best}.{_halves(request)}"
    except (DodeError, ValueError) as error:
        return str(error)
    if key(request) not in _seconds:
        text += " How long that is here: press Time it, which makes two evaluations."
    return text


def _halves(request: Request) -> str:
    """What is to be said of the count where the settings leave guidance out."""
    mark = host.unguided_mark()
    if not mark or request.cfg == 1:
        return ""
    where = mark.replace("=", " ").replace("_", " ").replace("+", ", ")
    text = f" Some evaluations run the model once instead of twice, without guidance ({where})"
    if "Skip_Early" in mark:  # by the number of the step, and the first is what is timed
        return f"{text}: where that is the one that Time it times, the others take twice as long."
    return f"{text}, and take less."


def _once(request: Request) -> str:
    """What a profile costs, or that it takes more samples than tables do."""
    try:
        return f"{sentence(replace(request, once=True))}."
    except RequestError as error:
        return str(error)


class Stopwatch:
    """A sampler function that times one evaluation, after one that loads and compiles."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.error: BaseException | None = None

    def __call__(
        self, model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None,
        disable: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """Two evaluations at the first sigma; x only tells shape, device and type."""
        try:
            x = x[:1] * 0 + float(sigmas[0])
            for _ in range(2):
                began = time.monotonic()
                out = model(x, sigmas[0].to(x) * x.new_ones(1), **(extra_args or {}))
                float(out.flatten()[0])  # waits for the device
                self.seconds = time.monotonic() - began
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the host's interrupt is no Exception
            self.error = error
        return torch.zeros_like(x[:1])
