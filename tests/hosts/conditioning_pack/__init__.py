"""Test-only nodes: conditioning without a text encoder, witnesses of calls, nested latents."""

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


class TestWitness:
    """Compares, in `output/<name>.json`, what a SAMPLER reports with what the model was given."""

    CATEGORY = "testing"
    FUNCTION = "wrap"
    RETURN_TYPES = ("SAMPLER",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sampler": ("SAMPLER",), "name": ("STRING", {"default": "seen"})}}

    def wrap(self, sampler: Any, name: str) -> tuple[Any]:
        """Return the same sampler, watched: per callback the step, and how far its x is off."""
        import comfy.samplers  # type: ignore[import-not-found]
        import folder_paths  # type: ignore[import-not-found]

        report = Path(folder_paths.get_output_directory()) / f"{name}.json"

        def watched(model: Any, x: Any, sigmas: Any, **options: Any) -> Any:
            given: list[tuple[float, torch.Tensor]] = []
            seen: list[dict[str, float]] = []
            callback = options.pop("callback")

            class Model:
                def __getattr__(self, attribute: str) -> Any:
                    return getattr(model, attribute)

                def __call__(self, x: Any, sigma: Any, **kwargs: Any) -> Any:
                    given.append((float(sigma[0]), x.clone()))
                    return model(x, sigma, **kwargs)

            def witness(step: dict[str, Any]) -> None:
                off = min(float((x - step["x"]).abs().max()) for _, x in given)
                last = float((given[-1][1] - step["x"]).abs().max())
                seen.append({"i": step["i"], "off": off, "last": last, "sigma": given[-1][0]})
                report.write_text(json.dumps({"seen": seen, "sigmas": sigmas.tolist()}))
                callback(step)

            return sampler.sampler_function(
                Model(), x, sigmas, callback=witness, **options, **sampler.extra_options
            )

        return (comfy.samplers.KSAMPLER(watched),)


class TestNestedLatent:
    """An empty nested latent of two parts, an image and a longer one."""

    CATEGORY = "testing"
    FUNCTION = "make"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"batch_size": ("INT", {"default": 1, "min": 1, "max": LARGE})}}

    def make(self, batch_size: int) -> tuple[dict[str, Any]]:
        from comfy.nested_tensor import NestedTensor  # type: ignore[import-not-found]

        parts = [torch.zeros(batch_size, 16, 8, 8), torch.zeros(batch_size, 4, 30)]
        return ({"samples": NestedTensor(parts)},)


class TestNestedPart:
    """One part of a nested latent."""

    CATEGORY = "testing"
    FUNCTION = "take"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 0, "min": 0, "max": LARGE})
        return {"required": {"samples": ("LATENT",), "part": number}}

    def take(self, samples: dict[str, Any], part: int) -> tuple[dict[str, Any]]:
        return ({"samples": samples["samples"].unbind()[part]},)


class TestGaussian:
    """A flow MODEL of any latent shape: the exact denoiser of data with a given spread.

    Its ODE takes noise eps at sigma 1 to spread * eps at sigma 0.
    """

    CATEGORY = "testing"
    FUNCTION = "wrap"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        spread = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 100.0})
        return {"required": {"model": ("MODEL",), "spread": spread}}

    def wrap(self, model: Any, spread: float) -> tuple[Any]:
        def denoise(_: Any, call: dict[str, Any]) -> torch.Tensor:
            x = call["input"]
            sigma = call["timestep"].reshape(-1, *[1] * (x.ndim - 1))
            signal = (1 - sigma) * spread**2
            return x * signal / ((1 - sigma) * signal + sigma**2)

        exact = model.clone()
        exact.set_model_unet_function_wrapper(denoise)
        return (exact,)


class TestSkipper:
    """A step cache as packs make them: while little changes, the last change is used again."""

    CATEGORY = "testing"
    FUNCTION = "wrap"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        threshold = ("FLOAT", {"default": 0.3, "min": 0.0, "max": 100.0})
        return {"required": {"model": ("MODEL",), "threshold": threshold}}

    def wrap(self, model: Any, threshold: float) -> tuple[Any]:
        before: list[torch.Tensor] = []

        def skip(apply_model: Any, call: Any) -> torch.Tensor:
            x = call["input"]
            if before and before[0].shape == x.shape:
                seen, found = before
                if (x - seen).norm() < threshold * seen.norm():
                    return x + (found - seen)
            found = apply_model(x, call["timestep"], **call["c"])
            before[:] = x, found
            return found

        skipping = model.clone()
        skipping.set_model_unet_function_wrapper(skip)
        return (skipping,)


class TestVAE:
    """A VAE for image latents of any number of channels: the first three are the colours."""

    CATEGORY = "testing"
    FUNCTION = "make"
    RETURN_TYPES = ("VAE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"channels": ("INT", {"default": 16, "min": 3, "max": LARGE})}}

    def make(self, channels: int) -> tuple[Any]:
        class VAE:
            def decode(self, latent: torch.Tensor) -> torch.Tensor:
                assert latent.shape[1] == channels
                return latent[:, :3].movedim(1, -1).sigmoid()

        return (VAE(),)


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind
    for kind in (
        TestConditioning,
        TestCountCalls,
        TestGaussian,
        TestNestedLatent,
        TestNestedPart,
        TestSkipper,
        TestVAE,
        TestWitness,
    )
}
