"""What each process of tests/test_distributed.py runs: calibrations on the exact mixture.

torchrun --nproc-per-node=N tests/ranks_script.py CASE ...
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch  # noqa: E402
from problems import karras, mixture, randn  # noqa: E402

import dode_core as dode  # noqa: E402
from dode_core.fit import distributed  # noqa: E402

torch.set_num_threads(1)
SHAPE = (2, 3, 3)
FULL: dict[str, Any] = {"columns": 2, "gain": True}


class Model:
    """The mixture; counts its calls, and breaks at one of them in process 1."""

    def __init__(self, case: str) -> None:
        self.case, self.calls, self.model = case, 0, mixture(shape=SHAPE)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, mark: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        denoised = self.model(x, sigma)
        if self.case == "bad sample" and float(sigma[0]) < 1:
            denoised[(mark == 2) | (mark == 15)] = torch.nan
        if distributed.rank() == 1 and self.calls == 25:
            if self.case == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.case == "fails":
                raise ValueError("the model fell over")
        return denoised


def tables(case: str, samples: int) -> list[dode.LambdaTable]:
    x, args = randn(samples, *SHAPE) * 15.0, {"mark": torch.arange(float(samples))}
    options: dict[str, Any] = {"extra_args": args, "batch_size": 3}
    if case == "many":
        grids = [karras(4), karras(6)]
        return dode.distill_many(Model(case), x, grids, ["ddim", "heun"], **options)
    if case == "sigmas":
        return [dode.distill(Model(case), x, karras(5), **FULL, learn_sigmas=True, **options)]
    return [dode.distill(Model(case), x, karras(6), **FULL, **options)]


def profile() -> dode.Profile:
    args = {"mark": torch.arange(12.0)}
    x = randn(12, *SHAPE) * 15.0
    how: dict[str, Any] = {"extra_args": args, "parametrization": "ve", "batch_size": 3}
    return dode.calibrate(Model("profile"), x, 15.0, 0.02, **how)


def main(*cases: str) -> int:
    try:
        with distributed.ranks():
            for case in cases:
                found = profile() if case == "profile" else tables(case, 3 if case == "few" else 16)
                distributed.all_well()
                if distributed.rank() == 0:
                    if isinstance(found, dode.Profile):
                        found.save(f"{case}.dode-profile")
                    else:
                        dode.save_tables(f"{case}.dode.json", found)
    except dode.DodeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
