"""Test-only nodes: conditioning without a text encoder, and a count of the model's calls."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

LARGE = 2**31


class TestConditioning:
    """Random CONDITIONING, so that a MODEL can be driven without a CLIP."""

    CATEGORY = "testing"
    FUNCTION = "make"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs; `pooled` 0 leaves the pooled output away."""
        return {
            "required": {
                "tokens": ("INT", {"default": 4, "min": 1, "max": LARGE}),
                "width": ("INT", {"default": 64, "min": 1, "max": LARGE}),
                "pooled": ("INT", {"default": 64, "min": 0, "max": LARGE}),
                # Not "seed": the front end would give it a button and change it after every run.
                "draw": ("INT", {"default": 0, "min": 0, "max": LARGE}),
            }
        }

    def make(self, tokens: int, width: int, pooled: int, draw: int) -> tuple[list[Any]]:
        """Return one condition: (1, tokens, width) and, unless 0, (1, pooled)."""
        generator = torch.Generator().manual_seed(draw)
        context = torch.randn(1, tokens, width, generator=generator)
        extra = {}
        if pooled:
            extra["pooled_output"] = torch.randn(1, pooled, generator=generator)
        return ([[context, extra]],)


class TestCountCalls:
    """Counts the calls of a MODEL in `output/<name>.json`, and slows them down at will.

    The file is written at every call, so that it is right after an interrupt too. The count
    goes on from run to run as long as ComfyUI serves this node from its cache.
    """

    CATEGORY = "testing"
    FUNCTION = "wrap"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs; `delay` is in seconds per call."""
        return {
            "required": {
                "model": ("MODEL",),
                "name": ("STRING", {"default": "calls"}),
                "delay": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 60.0}),
            }
        }

    def wrap(self, model: Any, name: str, delay: float) -> tuple[Any]:
        """Return a clone of `model` whose every call is counted."""
        import folder_paths  # type: ignore[import-not-found]

        report = Path(folder_paths.get_output_directory()) / f"{name}.json"
        calls: list[dict[str, float]] = []
        counted = model.clone()
        inner = counted.model_options.get("model_function_wrapper")

        def count(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
            # One call holds the conditional and the unconditional half when they fit together.
            halves = len(call["cond_or_uncond"])
            calls.append({"sigma": float(call["timestep"][0]), "conds": halves})
            report.write_text(json.dumps({"calls": len(calls), "log": calls}))
            time.sleep(delay)
            if inner is not None:
                return inner(apply_model, call)
            return apply_model(call["input"], call["timestep"], **call["c"])

        counted.set_model_unet_function_wrapper(count)
        return (counted,)


NODE_CLASS_MAPPINGS = {
    "TestConditioning": TestConditioning,
    "TestCountCalls": TestCountCalls,
}
