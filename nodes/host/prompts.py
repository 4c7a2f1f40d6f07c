"""Several prompts in one CONDITIONING: every entry says which prompt it belongs to.

Without D-ODE Distill such a CONDITIONING is what Conditioning (Combine) makes of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MARK = "dode_prompt"
PER_SAMPLE = "dode_prompt"  # extra argument of the model: every sample's prompt, (B,)


def marked(prompts: list[Any]) -> list[Any]:
    """CONDITIONINGs as one; those that hold several prompts already keep them apart."""
    found, count = [], 0
    for conditioning in prompts:
        own = [entry.get(MARK, 0) for _, entry in conditioning]
        found += [
            [tensor, {**entry, MARK: count + mark}]
            for (tensor, entry), mark in zip(conditioning, own, strict=True)
        ]
        count += max(own, default=0) + 1
    return found


class ByPrompt:
    """The host's denoiser, every sample with its own prompt.

    ``model.inner_model`` is the guider: its processed positive is narrowed to one prompt for the
    time of a call.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.guider = model, model.inner_model
        self.inner_model = model.inner_model
        self.prompts = prompts_of(getattr(self.guider, "conds", {}))

    def extra_args(self, samples: int, extra_args: Mapping[str, Any]) -> dict[str, Any]:
        """The extra arguments with every sample's prompt, in turn."""
        turns = torch.arange(samples) % len(self.prompts)
        return {**extra_args, PER_SAMPLE: torch.tensor(self.prompts)[turns]}

    def __call__(self, x: Tensor, sigma: Tensor, dode_prompt: Tensor, **extra_args: Any) -> Tensor:
        conds, out = self.guider.conds, torch.empty_like(x)
        try:
            for prompt in dode_prompt.unique().tolist():
                rows = (dode_prompt == prompt).nonzero()[:, 0].to(x.device)
                own = [cond for cond in conds["positive"] if cond.get(MARK) == prompt]
                self.guider.conds = {**conds, "positive": own}
                out[rows] = self.model(x[rows], sigma[rows], **extra_args).to(out)
        finally:
            self.guider.conds = conds
        return out


def prompts_of(conds: Mapping[str, Any]) -> list[int]:
    """The prompts of a guider's positive; empty where nobody marked any."""
    return sorted({cond[MARK] for cond in conds.get("positive") or () if MARK in cond})


def by_prompt(
    model: Callable[..., Tensor], samples: int, extra_args: Mapping[str, Any]
) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """(model, extra arguments) with which every sample has its prompt; as given for one prompt."""
    if len(prompts_of(getattr(getattr(model, "inner_model", None), "conds", {}))) < 2:
        return model, dict(extra_args)
    several = ByPrompt(model)
    return several, several.extra_args(samples, extra_args)
