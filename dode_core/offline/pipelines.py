"""Diffusers folders as denoisers: SD 1.x and 2.x, SDXL, SD3 and Flux. An optional extra.

Only safetensors weights and the components of diffusers and transformers are loaded, from the disk
alone: no pickle, no code of the folder's own, no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CalibrationError
from ..tables.files import SUFFIX, read_bytes
from ..tables.identity import file_fingerprint
from ..tables.safetensors_header import read_header
from .loading import Loaded, Wanted
from .pipeline_models import FluxDenoiser, SD3Denoiser, SDXLDenoiser, UNetDenoiser

KINDS: Mapping[str, type[UNetDenoiser | SD3Denoiser]] = {
    "StableDiffusionPipeline": UNetDenoiser,
    "StableDiffusionXLPipeline": SDXLDenoiser,
    "StableDiffusion3Pipeline": SD3Denoiser,
    "FluxPipeline": FluxDenoiser,
}
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pipeline(folder: Path, wanted: Wanted) -> Loaded:
    """A diffusers folder, its prompts encoded. Raises :class:`CalibrationError`, TableError."""
    index = _index(folder)
    weights = _weights(folder)
    denoiser = KINDS[index["_class_name"]](_pipeline(folder, index, wanted), wanted)
    return Loaded(
        denoiser,
        denoiser.parametrization,
        folder.name,
        f"file:{file_fingerprint(weights)}",
        *denoiser.sigma_range,
        denoiser.shape,
        denoiser.conditions,
        folder.with_name(folder.name + SUFFIX),
        wanted.device,
        denoiser.shift,
    )


def _index(folder: Path) -> dict[str, Any]:
    """model_index.json, which names classes of known libraries only."""
    raw = read_bytes(folder / "model_index.json", 1_000_000)
    try:
        index = json.loads(raw)
        name = index["_class_name"]
        parts = {key: value for key, value in index.items() if isinstance(value, list)}
        known = all(len(value) == 2 and value[0] in LIBRARIES for value in parts.values())
        if not isinstance(name, str):
            raise TypeError(name)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CalibrationError(f"{folder.name}/model_index.json is not valid.") from error
    if name not in KINDS or not known:
        shown = ascii(name)[:60] if name not in KINDS else "a part from an unknown library"
        raise CalibrationError(
            f"{folder.name} is {shown}; pipelines of {', '.join(KINDS)} with the parts of "
            "diffusers and transformers can be distilled."
        )
    return index


def _weights(folder: Path) -> Path:
    """The denoising network's first weights file; every one has a header that is in order."""
    found = [p for part in ("unet", "transformer") for p in (folder / part).glob("*.safetensors")]
    if not found:
        raise CalibrationError(
            f"{folder.name} has no safetensors weights of a unet or transformer; save it with "
            "safe_serialization=True. Pickled weights (.bin) are not read."
        )
    for path in found:
        read_header(path)
    return min(found)


def _pipeline(folder: Path, index: Mapping[str, Any], wanted: Wanted) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise CalibrationError(
            "diffusers is not installed; run: pip install diffusers transformers."
        ) from error
    dtype = TYPES.get(wanted.dtype) or (
        torch.float16 if wanted.device.startswith("cuda") else torch.float32
    )
    left_out = {key for key, value in index.items() if value == [None, None]}  # T5, often
    unused = dict.fromkeys(left_out | (UNUSED & set(index)))
    cls = getattr(diffusers, index["_class_name"])
    try:
        return cls.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **unused,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CalibrationError(f"diffusers cannot load {folder.name} ({reason}).") from error
