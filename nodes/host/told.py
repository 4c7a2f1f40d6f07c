"""The host is told the truth: which sigmas the run in progress asks its model about.

ComfyUI keeps a run's sigmas in ``transformer_options["sample_sigmas"]``, where context windows,
HunyuanVideo's meanflow, step caches and scheduled guidance look their step up. A table's own
sigmas, a look ahead and every trajectory of a distillation are not the KSampler's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as management
import torch
from comfy.samplers import CFGGuider
from torch import Tensor

HOSTS_OWN = ("comfy.", "comfy_extras.")


class Told:
    """A denoiser that gets a copy of its options with the sigmas of the run in progress.

    Interrupts are noticed at every call, whatever the work is and whoever reports its progress.
    ``look_ahead`` is False where a guider's scales follow the steps: see :func:`follows_steps`.
    """

    def __init__(self, model: Callable[..., Tensor]) -> None:
        self.model = model
        self.inner_model = getattr(model, "inner_model", None)
        self.look_ahead = not follows_steps(self.inner_model)
        self.sigmas: Tensor | None = None
        self.options: tuple[Any, dict[str, Any]] | None = None

    def begin_run(self, sigmas: Sequence[float]) -> None:
        """The sigmas that the next calls ask about, and where they end."""
        self.sigmas, self.options = torch.tensor(sigmas, dtype=torch.float32), None

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        given = extra_args.get("model_options")
        if self.sigmas is not None and isinstance(given, dict):
            if self.options is None or self.options[0] is not given:
                sigmas = self.sigmas.to(x.device)
                inner = {**given.get("transformer_options", {}), "sample_sigmas": sigmas}
                self.options = given, {**given, "transformer_options": inner}
            extra_args["model_options"] = self.options[1]
        return self.model(x, sigma, **extra_args)


def follows_steps(guider: Any) -> bool:
    """Whether a guider may look its scales up by the step, as Inspire's Scheduled CFG does.

    Nobody says so; the host's own guiders do not, and any other that mixes the outputs itself may.
    """
    if not isinstance(guider, CFGGuider):
        return False
    for name in ("predict_noise", "outer_predict_noise", "__call__"):
        owner = next((kind for kind in type(guider).__mro__ if name in vars(kind)), CFGGuider)
        if not owner.__module__.startswith(HOSTS_OWN):
            return True
    return False
