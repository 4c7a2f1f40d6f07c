"""What other packs do to a ComfyUI, and what a machine may lack: nothing of it may harm ours."""

from __future__ import annotations

import importlib
import sys

import comfy.k_diffusion.sampling  # type: ignore[import-not-found]
import comfy.samplers  # type: ignore[import-not-found]

# New lists instead of the host's own, with or without the names that others have added by then.
comfy.samplers.KSampler.SAMPLERS = [*comfy.samplers.KSampler.SAMPLERS, "rude"]
comfy.samplers.SAMPLER_NAMES = list(comfy.samplers.SAMPLER_NAMES)
comfy.k_diffusion.sampling.sample_rude = comfy.k_diffusion.sampling.sample_euler
importlib.reload(comfy.k_diffusion.sampling)

# As on a machine without it.
for name in ("matplotlib", "matplotlib.figure"):
    sys.modules[name] = None  # type: ignore[assignment]

NODE_CLASS_MAPPINGS: dict[str, type] = {}
