"""The demo network as a MODEL: a small pixel-space model that every stock node takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models_base
import torch
from torch import Tensor

from ...dode_core.demo import model as demo

VARIANTS = {"EDM": "emoji_edm", "flow": "emoji_flow"}
LABEL = "dode_label"  # the key of a class label in CONDITIONING


class PixelFormat(comfy.latent_formats.LatentFormat):
    """Latents that are the pixels, -1 to 1."""

    latent_channels = 3
    scale_factor = 1.0
    latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]  # noqa: RUF012


class Config(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of an architecture."""

    latent_format = PixelFormat
    memory_usage_factor = 0.05
    sampling_settings = {  # noqa: RUF012
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.6094,
        "shift": 1.0,
        "multiplier": 1.0,
    }


class VESampling(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EPS):
    """Sigma 0.002 to 80; the network does its own preconditioning and returns the image."""

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def calculate_denoised(
        self, sigma: Tensor, model_output: Tensor, model_input: Tensor
    ) -> Tensor:
        return model_output


class Net(torch.nn.Module):
    """The network with ComfyUI's arguments: ``t`` is log(sigma)/4, or sigma for flow."""

    dtype = torch.float32

    def __init__(self, network: demo.EmojiUNet) -> None:
        super().__init__()
        self.network = network
        self.flow = network.parametrization == "flow"

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, **_: Any) -> Tensor:
        labels = labels.reshape(-1).long()
        if self.flow:  # the velocity
            return self.network.target(x, t, labels)[0]
        return self.network(x, (4 * t).exp(), labels)


class Demo(comfy.model_base.BaseModel):
    """The model object around the network."""

    def __init__(self, name: str) -> None:
        network = demo.load_network(demo.weights_path(name))
        flow = network.parametrization == "flow"
        kind = comfy.model_base.ModelType.FLOW if flow else comfy.model_base.ModelType.EPS
        config = Config({"disable_unet_model_creation": True})
        super().__init__(config, kind)
        self.dode_name, self.dode_file = name, Path(demo.weights_path(name))
        self.diffusion_model = Net(network)
        if not flow:
            self.model_sampling = VESampling(config)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """The class label instead of a text."""
        conds = super().extra_conds(**kwargs)
        conds.pop("c_crossattn", None)
        label = torch.tensor([[kwargs.get(LABEL, demo.NO_CLASS)]])
        return {**conds, "labels": comfy.conds.CONDRegular(label)}


def variants() -> list[str]:
    """The variants whose weights are shipped."""
    return [name for name, file in VARIANTS.items() if Path(demo.weights_path(file)).is_file()]


def load_model(variant: str) -> comfy.model_patcher.ModelPatcher:
    """The demo network as a MODEL."""
    return comfy.model_patcher.ModelPatcher(
        Demo(VARIANTS[variant]),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def conditioning(label: int) -> list[Any]:
    """CONDITIONING for a class; it has no text."""
    return [[torch.zeros(1, 1, 1), {LABEL: label}]]
