"""What a user would otherwise have run, on the same held-out noises and the same grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..solve.integrate import Denoiser, complete
from ..solve.solvers import get_solver
from ..solve.stages import plain
from . import distributed
from .batches import Batch
from .products import flat

# By the hosts' own names: two solvers that every host has, the usual choice and the simplest.
PEERS = {"dpmpp_2m": "dpmpp_2m", "euler": "ddim"}


def hosts_kind(solver: str, parametrization: str) -> str:
    """The parametrisation in which the hosts run a plain solver.

    Their DPM++ 2M steps in log sigma for flow models too (``sample_dpmpp_2m`` of k-diffusion and of
    ComfyUI); ours, as the paper has it, in log-SNR. Which of them ends nearer depends on the
    schedule (docs/benchmarks.md).
    """
    return "ve" if solver == "dpmpp_2m" else parametrization


def peer_error(
    model: Denoiser,
    batches: Sequence[Batch],
    name: str,
    grid: Sequence[float],
    parametrization: str,
) -> float:
    """RMS error of a peer's final states on the held-out samples, in latent units.

    ``name`` is one of :data:`PEERS`; ``batches`` as for a fit, with at least one held-out sample.
    """
    held = [batch for batch in batches if batch.held_out]
    states = [batch.state.copy() for batch in held]
    solver = PEERS[name]
    stages = plain(get_solver(solver).stages(grid, hosts_kind(solver, parametrization)))
    complete(model, states, stages, parametrization=parametrization)
    pairs = zip(states, held, strict=True)
    squares = [flat(state.x - batch.final).square().mean(1).cpu() for state, batch in pairs]
    every = distributed.gather(torch.cat(squares) if squares else torch.zeros(0).double())
    return math.sqrt(float(every.mean()))
