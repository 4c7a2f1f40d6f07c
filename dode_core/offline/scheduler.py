"""A table or a profile as a diffusers scheduler: ``DodeScheduler.from_table(..., pipe.scheduler)``.

diffusers owns the loop and calls the network; ``step`` gets its output and takes one stage. The
states are k-diffusion's, as diffusers' own Euler schedulers have them, so that the numbers of a
table mean the same here: x = x0 + sigma * eps, for flow models x = (1 - sigma) * x0 + sigma * eps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import DodeError
from ..match.resolve import Resolution, resolve
from ..response.profile import SUFFIX, Profile
from ..solve.integrate import State, asked, history_to_keep, record, update
from ..solve.noise import alpha
from ..tables.table import LambdaTable, load_tables
from .pipeline_noise import FlowNoise, PipelineNoise, noise_of
from .serving import FromProfile, Serving, Tables


class DodeScheduler:
    """Samples a diffusers pipeline with tables or a profile; SD 1 and 2, SDXL, SD3, Flux and kin.

    A profile serves any number of steps, and any part of a run (image to image). With tables, a run
    of as many steps as a table has takes that table and its sigmas. Other step counts, and
    sigmas that the caller gives, run on the pipeline's own sigmas, with a table where one carries
    over and plain DPM++ 2M otherwise; ``message`` and the log say which. A run that starts late
    (image to image) takes its part of the table.

    It keeps what a run needs between steps, so one pipeline uses it at a time, as with every
    scheduler of diffusers.
    """

    order = 1  # one evaluation a step

    def __init__(self, serving: Serving, noise: PipelineNoise) -> None:
        self.serving, self.noise, self.config = serving, noise, noise.config
        self.num_inference_steps: int | None = None
        # Pipelines look at sigmas before they begin a run: those of one step, until then.
        self._first, self._state = 0, None
        self._take(resolve([], [noise.highest, 0.0], parametrization=noise.parametrization))
        self._plan("cpu")

    @classmethod
    def from_table(
        cls,
        table: LambdaTable | Sequence[LambdaTable] | Profile | str | Path,
        scheduler: Any,
        *,
        cfg: float | None = None,
    ) -> DodeScheduler:
        """A scheduler for the pipeline whose ``scheduler`` is given.

        table: one, several (say of several step counts), a :class:`Profile`, or a ``.dode.json`` or
        ``.dode-profile`` file. scheduler: the pipeline's own (``pipe.scheduler``); it knows the
        model's noise levels and what the network predicts. cfg: the guidance scale of the runs,
        which chooses among tables of several.

        Raises :class:`DodeError` where a table is for the other kind of model (flow or not), where
        its solver evaluates more than once a step, where a profile goes above the model's highest
        sigma, and where diffusers is not installed.
        """
        if isinstance(table, str | Path):
            profiled = str(table).endswith(SUFFIX)
            table = Profile.load(table) if profiled else load_tables(table)
        noise = noise_of(getattr(scheduler, "noise", None) or scheduler)
        if isinstance(table, Profile):
            return cls(FromProfile(table, noise, cfg), noise)
        tables = [table] if isinstance(table, LambdaTable) else list(table)
        return cls(Tables(tables, noise, cfg), noise)

    # What pipelines call before the loop

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run. ``sigmas`` and ``mu`` are what flow pipelines pass, as in diffusers."""
        steps = len(sigmas) if sigmas is not None else int(num_inference_steps or 0)
        if steps < 1:
            raise DodeError(f"num_inference_steps is {num_inference_steps}; use 1 or more.")

        def usual() -> list[float]:
            return self.noise.sigmas(steps, sigmas, mu)

        own = None if self._are_chosen(sigmas) else self.serving.own(steps, usual)
        self.num_inference_steps = steps
        self._resolve(own.sigmas.tolist() if own else usual())
        self._plan(device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Image to image: the run begins at this step."""
        self.begin_index = begin_index

    @property
    def init_noise_sigma(self) -> float:
        """How much noise a run starts from: the first sigma."""
        return 1.0 if isinstance(self.noise, FlowNoise) else float(self.sigmas[0])

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is shown: unit variance; at a look ahead, a little less noise."""
        if isinstance(self.noise, FlowNoise):
            return sample
        k = self._index(timestep)
        x, sigma = asked(sample, self.resolution.stages[k - self._first])
        return x / (sigma**2 + 1) ** 0.5

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The state of a clean latent at a timestep of this run."""
        if self.step_index is not None:  # inpainting asks for it between steps
            index = self.step_index
        else:
            index = self.begin_index if self.begin_index is not None else self._find(timesteps[0])
        sigma = self._sigmas[index]
        clean = alpha(sigma, self.noise.parametrization)
        return original_samples * clean + noise * sigma

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise` by the name that flow pipelines call."""
        return self.add_noise(sample, noise, timestep)

    # The loop

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
        **_: Any,
    ) -> Any:
        """One step: x (B, ...) at this timestep's sigma to x at the next one, in x's dtype."""
        k = self._index(timestep) - self._first
        stage, lambdas = self.resolution.stages[k], self.resolution.lambdas[k]
        state = self._state or State.begin(sample)
        self._state = state
        state.x = sample.to(state.x)  # pipelines may have changed it: masks, callbacks
        if k == 0:
            state.guess_noise(stage, self._keep[0], self.noise.parametrization)
        shown, sigma = asked(state.x, stage)
        denoised = self.noise.denoised(shown, sigma, model_output.to(state.x))
        record(state, stage, denoised, self._keep[k])
        self.step_index = self._first + k + 1
        previous = update(state, stage, lambdas).to(model_output.dtype)
        denoised = denoised.to(model_output.dtype)
        if not return_dict:
            return previous, denoised
        return SimpleNamespace(prev_sample=previous, pred_original_sample=denoised)

    # What a run uses

    @staticmethod
    def _are_chosen(sigmas: Sequence[float] | None) -> bool:
        """Whether a user chose these sigmas: Flux passes 1 to 1/N evenly when nobody did."""
        if sigmas is None:
            return False
        n = len(sigmas)
        return any(abs(float(s) - (1 - i / n)) > 1e-3 / n for i, s in enumerate(sigmas))

    def _plan(self, device: Any) -> None:
        """The sigmas and timesteps of a whole run; they may be a table's own."""
        stages = self.resolution.stages
        self._sigmas = [stage.sigma for stage in stages] + [stages[-1].sigma_next]
        ahead = [stage.look_ahead for stage in stages]
        shown = [a.sigma if a else s for a, s in zip(ahead, self._sigmas[:-1], strict=True)]
        self.sigmas = torch.tensor(self._sigmas)
        self.timesteps = self.noise.timesteps(shown).to(device)
        self.begin_index: int | None = None
        self.step_index: int | None = None

    def _resolve(self, grid: Sequence[float], first: int = 0) -> None:
        """Begin a run over ``grid``, the ``first`` steps of a whole one left out."""
        self._first, self._state = first, None
        self._take(self.serving.resolution(grid))

    def _take(self, resolution: Resolution) -> None:
        self.resolution, self.message = resolution, resolution.said
        self._keep = history_to_keep(resolution.stages)

    def _index(self, timestep: Any) -> int:
        """The step that is next. At the first call the run begins, maybe late: image to image."""
        if self.step_index is None:
            begin = self.begin_index
            self.step_index = begin = self._find(timestep) if begin is None else begin
            if begin > 0:
                self._resolve(self._sigmas[begin:], begin)
            level = logging.INFO if self.resolution.table else logging.WARNING
            logging.log(level, "D-ODE: %s", self.message)
        return self.step_index

    def _find(self, timestep: Any) -> int:
        """The step at a timestep, one look a run."""
        value = float(timestep)
        times = self.timesteps.tolist()
        return min(range(len(times)), key=lambda i: abs(times[i] - value))

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)
