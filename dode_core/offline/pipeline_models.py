"""The networks of diffusers pipelines as k-diffusion denoisers, classifier-free guidance included.

UNet, eps:  denoised = x - sigma * eps,                     x / sqrt(1 + sigma^2) goes in
UNet, v:    denoised = x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) * v
flow:       denoised = x - sigma * velocity
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from .loading import Wanted


class UNetDenoiser:
    """SD 1.x and 2.x: ``model(x, sigma, cond=..., uncond=..., cfg=...) -> denoised``."""

    parametrization = "ve"
    part = "unet"

    def __init__(self, pipe: Any, wanted: Wanted) -> None:
        self.pipe, self.wanted = pipe, wanted
        self.network = getattr(pipe, self.part).to(wanted.device).eval().requires_grad_(False)
        self.dtype = self.network.dtype
        config = self.network.config
        scale = pipe.vae_scale_factor
        side = config.get("sample_size")
        side = side if isinstance(side, int) else 128
        width, height = wanted.size or (side * scale, side * scale)
        step = scale * self.patch
        if width % step or height % step or min(width, height) < step:
            raise CalibrationError(f"Size {width}x{height} is no multiple of {step}; change it.")
        self.shape = (self.channels, height // scale, width // scale)
        self.pixels = height, width
        self.setup(pipe.scheduler.config)

    @property
    def channels(self) -> int:
        return self.network.config.in_channels

    patch, shift = 1, 1.0

    def setup(self, schedule: Any) -> None:
        """What the training schedule says: the sigma of every timestep, what is predicted."""
        self.kind = schedule.get("prediction_type", "epsilon")
        if self.kind not in ("epsilon", "v_prediction"):
            raise CalibrationError(f"Models that predict {self.kind!r} cannot be distilled yet.")
        products = self.pipe.scheduler.alphas_cumprod.double().clamp(min=2**-24)
        self.logs = ((1 - products) / products).sqrt().log().to(self.wanted.device)
        self.sigma_range = float(self.logs[0].exp()), float(self.logs[-1].exp())

    @torch.no_grad()
    def conditions(self, samples: int, cfg: float) -> Mapping[str, Any]:
        """The arguments for so many samples, prompts in turn; text encoders run once, here."""
        prompts = list(dict.fromkeys(self.wanted.prompts))
        device = self.wanted.device
        encoders = [getattr(self.pipe, f"text_encoder{n}", None) for n in ("", "_2", "_3")]
        encoders = [each for each in encoders if each is not None]
        for each in encoders:
            each.to(device)
        encoded = self.encode(prompts, device)
        for each in encoders:
            each.to("cpu")  # not needed again
        rows = torch.arange(samples, device=device) % len(prompts)
        found = {key: value.to(device)[rows] for key, value in encoded.items()}
        if cfg == 1:
            found = {key: value for key, value in found.items() if not key.startswith("uncond")}
        return {**found, "cfg": cfg}

    def encode(self, prompts: list[str], device: str) -> dict[str, Tensor]:
        """Embeddings, one row a prompt: cond and uncond, pooled where there is one."""
        negative = [self.wanted.negative] * len(prompts)
        cond, uncond = self.pipe.encode_prompt(prompts, device, 1, True, negative)
        return {"cond": cond, "uncond": uncond}

    def __call__(self, x: Tensor, sigma: Tensor, cfg: float = 1.0, **rows: Tensor) -> Tensor:
        names = {key.removeprefix("un"): value for key, value in rows.items() if key[:2] == "un"}
        if cfg == 1 or not names:
            args = {key: value for key, value in rows.items() if key[:2] != "un"}
            return self.predict(x, sigma, **args)
        both = {key: torch.cat([rows[key], names[key]]) for key in names}
        out = self.predict(torch.cat([x, x]), torch.cat([sigma, sigma]), **both)
        cond, uncond = out.chunk(2)
        return uncond + cfg * (cond - uncond)

    def predict(self, x: Tensor, sigma: Tensor, cond: Tensor, **pooled: Tensor) -> Tensor:
        s = sigma.double()
        scale = (1 + s * s).rsqrt().to(x.dtype).view(-1, 1, 1, 1)
        out = self.network(
            (x * scale).to(self.dtype),
            self.timestep(s).to(x.dtype),
            encoder_hidden_states=cond.to(self.dtype),
            return_dict=False,
            **self.added(pooled, len(x)),
        )[0].to(x.dtype)
        sigma = sigma.view(-1, 1, 1, 1)
        if self.kind == "epsilon":
            return x - sigma * out
        return x * scale**2 - sigma * scale * out

    def added(self, pooled: Mapping[str, Tensor], samples: int) -> dict[str, Any]:
        """What only some networks take."""
        return {}

    def timestep(self, sigma: Tensor) -> Tensor:
        """The training timestep of a sigma, interpolated in log sigma."""
        log = sigma.log().clamp(self.logs[0], self.logs[-1])
        high = torch.searchsorted(self.logs, log).clamp(1, len(self.logs) - 1)
        low = high - 1
        return low + (log - self.logs[low]) / (self.logs[high] - self.logs[low])


class SDXLDenoiser(UNetDenoiser):
    """SDXL: pooled embeddings and the picture's size go in as well."""

    others: Mapping[str, None] = {}  # what encode_prompt wants to be told to do without

    def encode(self, prompts: list[str], device: str) -> dict[str, Tensor]:
        cond, uncond, pooled, unpooled = self.pipe.encode_prompt(
            prompts,
            device=device,
            do_classifier_free_guidance=True,
            negative_prompt=[self.wanted.negative] * len(prompts),
            **self.others,
        )
        return {"cond": cond, "uncond": uncond, "cond_pooled": pooled, "uncond_pooled": unpooled}

    def added(self, pooled: Mapping[str, Tensor], samples: int) -> dict[str, Any]:
        texts = pooled["cond_pooled"].to(self.dtype)
        sizes = torch.tensor([[*self.pixels, 0, 0, *self.pixels]], device=texts.device)
        ids = sizes.repeat(samples, 1).to(self.dtype)
        return {"added_cond_kwargs": {"text_embeds": texts, "time_ids": ids}}


class SD3Denoiser(UNetDenoiser):
    """SD3 and SD3.5: a flow transformer on plain latents."""

    parametrization = "flow"
    part = "transformer"
    patch = 2
    others: Mapping[str, None] = {"prompt_2": None, "prompt_3": None}
    encode = SDXLDenoiser.encode

    def setup(self, schedule: Any) -> None:
        self.steps = schedule.num_train_timesteps
        self.shift = float(schedule.get("shift") or 1.0)
        self.sigma_range = 1e-3, 1.0

    def predict(self, x: Tensor, sigma: Tensor, cond: Tensor, **pooled: Tensor) -> Tensor:
        velocity = self.network(
            hidden_states=x.to(self.dtype),
            timestep=sigma * self.steps,
            encoder_hidden_states=cond.to(self.dtype),
            pooled_projections=pooled["cond_pooled"].to(self.dtype),
            return_dict=False,
        )[0]
        return x - sigma.view(-1, 1, 1, 1) * velocity.to(x.dtype)


class FluxDenoiser(SD3Denoiser):
    """Flux: packed latents; guidance is an input of the network, not two evaluations."""

    @property
    def channels(self) -> int:
        return self.network.config.in_channels // 4

    def setup(self, schedule: Any) -> None:
        super().setup(schedule)
        if schedule.get("use_dynamic_shifting"):
            self.shift = self._dynamic_shift(schedule)

    def _dynamic_shift(self, schedule: Any) -> float:
        """exp(mu), mu linear in the number of tokens, as diffusers' scheduler does."""
        tokens = self.shape[1] * self.shape[2] // 4
        low, high = schedule.base_image_seq_len, schedule.max_image_seq_len
        slope = (schedule.max_shift - schedule.base_shift) / (high - low)
        mu = schedule.base_shift + slope * (tokens - low)
        return float(torch.tensor(mu, dtype=torch.float64).exp())

    def encode(self, prompts: list[str], device: str) -> dict[str, Tensor]:
        cond, pooled, _ = self.pipe.encode_prompt(prompts, prompt_2=None, device=device)
        return {"cond": cond, "cond_pooled": pooled}

    def __call__(self, x: Tensor, sigma: Tensor, cfg: float = 1.0, **rows: Tensor) -> Tensor:
        height, width = x.shape[2:]
        pack: Callable[..., Tensor] = self.pipe._pack_latents
        cond, pooled = rows["cond"].to(self.dtype), rows["cond_pooled"].to(self.dtype)
        guidance = torch.full_like(sigma, cfg) if self.network.config.guidance_embeds else None
        velocity = self.network(
            hidden_states=pack(x.to(self.dtype), *x.shape),
            timestep=sigma.to(self.dtype),
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=cond,
            txt_ids=torch.zeros(cond.shape[1], 3, device=x.device, dtype=self.dtype),
            img_ids=self.pipe._prepare_latent_image_ids(
                len(x), height // 2, width // 2, x.device, self.dtype
            ),
            return_dict=False,
        )[0]
        scale = self.pipe.vae_scale_factor
        velocity = self.pipe._unpack_latents(velocity, height * scale, width * scale, scale)
        return x - sigma.view(-1, 1, 1, 1) * velocity.to(x.dtype)
