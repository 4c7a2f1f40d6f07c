"""Stand-ins for the modules of the WebUI's hosts, with what really differs between them.

Read off A1111 1.10.1, Forge (Jun 2025), reForge (Mar 2026) and Forge Classic (Feb 2025), which no
package index has: see docs/webui.md. Schedules and the model's sigmas are the real k-diffusion's.
The model is a closed form, each prompt its own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from PIL import Image
from problems import Mixture, mixture, randn
from torch import Tensor

import dode_core as dode

HOSTS = ("a1111", "forge", "reforge", "classic")
FORGES = ("forge", "reforge", "classic")
SHAPE = (4, 8, 8)
# Every name by which one of the hosts knows a schedule.
SCHEDULES = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform",
    "KL Optimal", "Align Your Steps", "Simple", "Normal", "DDIM", "Beta", "Turbo",
    "Align Your Steps GITS", "Align Your Steps 11", "Align Your Steps 32", "Sinusoidal SF",
    "Invcosinusoidal SF", "React Cosinusoidal DynSF", "Cosine", "Cosine-exponential Blend", "Phi",
    "Laplace", "Karras Dynamic", "Align Your Steps Custom",
)  # fmt: skip


class InterruptedException(BaseException):
    """What every host raises on Interrupt; not an Exception."""


class State:
    """``shared.state``."""

    def __init__(self) -> None:
        self.interrupted = self.skipped = self.stopping_generation = False
        self.job, self.job_count, self.sampling_step, self.sampling_steps = "", 0, 0, 0
        self.jobs: list[str] = []

    def begin(self, job: str = "(unknown)") -> None:
        self.job, self.job_count = job, -1
        self.interrupted = self.skipped = False
        self.jobs.append(job)

    def end(self) -> None:
        self.job, self.job_count = "", 0

    def interrupt(self) -> None:
        self.interrupted = True


class Options:
    """``shared.opts``: values by name, also before an option is declared."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {"hide_samplers": [], "sgm_noise_multiplier": False}
        self.declared: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def add_option(self, name: str, info: Any) -> None:
        self.declared[name] = info
        self.data.setdefault(name, info.default)


class MulticondLearnedConditioning:
    """Conditioning of a batch; no tensor, and no list."""

    def __init__(self, shape: tuple[int, ...], batch: list[str]) -> None:
        self.shape, self.batch = shape, batch


@dataclass(eq=False)
class Host:
    """The installed stand-in: its modules, and what tests look at."""

    kind: str
    folder: Path
    modules: dict[str, ModuleType]
    denoise: Callable[[Tensor, Tensor, str], Tensor]
    sigmas: Tensor
    log: list[dict[str, Any]] = field(default_factory=list)  # one entry a model call
    tasks: int = 0  # run on the host's own thread
    fail: Callable[[], None] = lambda: None  # called at every model call
    room: float = float("inf")  # samples that memory suffices for

    def __post_init__(self) -> None:
        self.predictor = Predictor(self.sigmas)

    def __getattr__(self, name: str) -> ModuleType:
        try:
            return self.__dict__["modules"][f"modules.{name}"]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def checkpoint(self) -> Path:
        return self.folder / "Stable-diffusion" / "model.safetensors"

    @property
    def sidecar(self) -> Path:
        return self.checkpoint.with_name("model.dode.json")

    def labels(self) -> list[str]:
        """The sampler menu."""
        return [each.name for each in self.sd_samplers.samplers]

    def remove(self) -> None:
        """Take the modules out again, and end the host's thread."""
        if "modules_forge.main_thread" in self.modules:
            self.modules["modules_forge.main_thread"].stop()
        for name, module in self.modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def txt2img(self, steps: int = 6, sampler: str = "D-ODE", **settings: Any) -> Any:
        """An ordinary run; (the processing object, its final latent)."""
        kind = self.processing.StableDiffusionProcessingTxt2Img
        scheduler = (
            {} if self.kind == "classic" else {"scheduler": settings.pop("scheduler", "Karras")}
        )
        attributes = {
            k: settings.pop(k) for k in list(settings) if k.startswith(("dode", "is_api"))
        }
        p = kind(prompt="a fox", steps=steps, sampler_name=sampler, **scheduler, **settings)
        p.scripts = self.scripts.ScriptRunner()
        for name, value in attributes.items():
            setattr(p, name, value)
        self.processing.process_images(p)
        return p


def install(kind: str, folder: Path, *, flow: bool = False, model: Mixture | None = None) -> Host:
    """Put a host's modules into ``sys.modules``; the fixture takes them out again."""
    names = [
        "shared", "sd_samplers", "sd_samplers_common", "sd_samplers_kdiffusion", "sd_models",
        "processing", "scripts", "script_callbacks", "call_queue", "paths", "ui_components",
    ]  # fmt: skip
    if kind != "classic":
        names.append("sd_schedulers")
    modules = {f"modules.{name}": ModuleType(f"modules.{name}") for name in names}
    modules["modules"] = ModuleType("modules")
    modules["modules"].__path__ = []  # type: ignore[attr-defined]
    for name in names:
        setattr(modules["modules"], name, modules[f"modules.{name}"])
    for name in ("Stable-diffusion", "dode"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "Stable-diffusion" / "model.safetensors").write_bytes(b"weights of " + b"x" * 5000)

    problem = model or mixture("flow" if flow else "ve", SHAPE, std=0.5)

    def denoise(x: Tensor, sigma: Tensor, prompt: str) -> Tensor:
        shift = 0.1 * (len(prompt) % 7)
        return problem(x, sigma) + shift * torch.tanh(x / (1 + sigma[:, None, None, None]))

    host = Host(kind, folder, modules, denoise, _model_sigmas(flow))
    _shared(host)
    _samplers(host)
    _processing(host)
    _rest(host)
    if kind in FORGES:
        _main_thread(host)
    sys.modules.update(host.modules)
    return host


def _model_sigmas(flow: bool) -> Tensor:
    """Ascending, as a k-diffusion wrapper keeps them."""
    if flow:
        return torch.linspace(0.001, 1.0, 1000)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    return ((1 - alphas) / alphas).sqrt().float()


def _shared(host: Host) -> None:
    shared = host.modules["modules.shared"]
    info = SimpleNamespace(filename=str(host.checkpoint), sha256=None, shorthash=None)
    loaded = SimpleNamespace(sd_checkpoint_info=info, is_sdxl=False)
    models = host.modules["modules.sd_models"]
    models.model_path = str(host.folder / "Stable-diffusion")
    models.checkpoint_aliases = {"model": info}
    models.model_data = SimpleNamespace(sd_model=loaded)
    if host.kind == "forge":  # nothing is loaded before the first run
        models.model_data = SimpleNamespace(
            sd_model=SimpleNamespace(), forge_loading_parameters={"checkpoint_info": info}
        )
    host.modules["modules.paths"].models_path = str(host.folder)

    class OptionInfo:
        def __init__(self, default: Any = None, label: str = "", section: Any = None) -> None:
            self.default, self.label, self.section = default, label, section

    shared.opts, shared.state, shared.OptionInfo = Options(), State(), OptionInfo
    shared.cmd_opts = SimpleNamespace(ckpt_dir=None, dode_dir=None)
    shared.sd_model = loaded


def _samplers(host: Host) -> None:
    common = host.modules["modules.sd_samplers_common"]
    module = host.modules["modules.sd_samplers"]
    opts = host.modules["modules.shared"].opts
    common.SamplerData = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])
    common.InterruptedException = InterruptedException
    stock = common.SamplerData(
        "DPM++ 2M", lambda model: None, ["k_dpmpp_2m"], {"scheduler": "karras"}
    )
    module.all_samplers, module.samplers_map = [stock], {}
    module.all_samplers_map = {"DPM++ 2M": stock}
    module.samplers = module.samplers_for_img2img = []

    def set_samplers() -> None:
        module.samplers = module.samplers_for_img2img = module.all_samplers
        module.samplers_hidden = set(opts.hide_samplers)
        module.samplers_map.clear()
        for sampler in module.all_samplers:
            for name in (sampler.name, *sampler.aliases):
                module.samplers_map[name.lower()] = sampler.name

    module.set_samplers = set_samplers
    if host.kind == "forge":

        def add_sampler(sampler: Any) -> None:  # what another extension calls: the map is new
            module.all_samplers.append(sampler)
            module.all_samplers_map = {each.name: each for each in module.all_samplers}
            set_samplers()

        module.add_sampler = add_sampler
    if host.kind != "classic":
        _schedules(host)

        @functools.cache
        def get_sampler_and_scheduler(name: str, scheduler: str) -> tuple[str, str]:
            fold = str.lower if host.kind == "reforge" else str
            for each in host.sd_schedulers.schedulers:
                for ending in (each.label, each.name, *(each.aliases or [])):
                    if fold(name).endswith(" " + fold(ending)):
                        scheduler, name = each.label, name[: -len(ending) - 1]
                        break
            return module.all_samplers_map.get(name, module.all_samplers[0]).name, scheduler

        module.get_sampler_and_scheduler = get_sampler_and_scheduler
    set_samplers()
    _kdiffusion(host)


def _schedules(host: Host) -> None:
    module = host.modules["modules.sd_schedulers"]
    scheduler = namedtuple("Scheduler", ["name", "label", "aliases"])
    labels = SCHEDULES if host.kind == "reforge" else SCHEDULES[: 9 if host.kind == "a1111" else 13]
    module.schedulers = [
        scheduler(label.lower().replace(" ", "_"), label, None) for label in labels
    ]
    module.schedulers[1] = scheduler("uniform", "Uniform", ["Old Uniform"])


class Predictor:
    """What keeps a model's sigmas in Forge and its kin; ``shift`` moves those of a flow model.

    A noise predictor's are its training's: a shift moves none of them.
    """

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas = self.times = sigmas

    def set_parameters(self, *, shift: float) -> None:
        if float(self.times[-1]) <= 1:
            self.sigmas = shift * self.times / (1 + (shift - 1) * self.times)


class Linker:
    """Forge's ``ForgeScheduleLinker``."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def sigmas(self) -> Tensor:
        return self.predictor.sigmas


class CFGDenoiser:
    """The guided denoiser that a sampler is given."""

    def __init__(self, host: Host, sampler: Any) -> None:
        self.host, self.sampler, self.p, self.step = host, sampler, None, 0
        self.inner_model = SimpleNamespace(sigmas=host.sigmas)

    def __call__(
        self, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, cond_scale: float,
        s_min_uncond: float, image_cond: Tensor,
    ) -> Tensor:  # fmt: skip
        if self.host.shared.state.interrupted or self.host.shared.state.skipped:
            raise InterruptedException
        self.host.fail()
        if len(x) > self.host.room:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")
        assert isinstance(cond, MulticondLearnedConditioning) and cond.shape == (len(x),)
        assert len(cond.batch) == len(x) == len(sigma) == len(image_cond)
        assert uncond is None or (isinstance(uncond, list) and len(uncond) == len(x))
        if self.host.kind in ("forge", "reforge") and self.p.is_hr_pass:
            cond_scale = self.p.hr_cfg
        self.host.log.append({"step": self.step, "cfg": cond_scale, "prompts": list(cond.batch)})
        rows = []
        for i, prompt in enumerate(cond.batch):
            one = self.host.denoise(x[i : i + 1], sigma[i : i + 1], prompt)
            base = self.host.denoise(x[i : i + 1], sigma[i : i + 1], "")
            rows.append(base + (one - base) * cond_scale)
        self.step += 1
        return torch.cat(rows)


def _kdiffusion(host: Host) -> None:
    from dode_core.demo.peers import k_diffusion_sampling

    k_diffusion = k_diffusion_sampling()

    class KDiffusionSampler:
        def __init__(self, funcname: Any, sd_model: Any) -> None:
            self.func = funcname if callable(funcname) else getattr(k_diffusion, funcname)
            self.model_wrap_cfg, self.config = CFGDenoiser(host, self), None
            self.last_latent: Any = None
            self.model_wrap = Linker(host.predictor)

        def get_sigmas(self, p: Any, steps: int) -> Tensor:
            known = self.model_wrap.sigmas
            low, high = float(known[0]), float(known[-1])
            name = getattr(p, "scheduler", None) or "Automatic"
            if name == "Automatic":
                name = (self.config.options.get("scheduler") or "").title()
            if name == "Karras":
                sigmas = k_diffusion.get_sigmas_karras(steps, low, high)
            elif name == "DDIM":  # gives one more at some counts
                sigmas = k_diffusion.get_sigmas_exponential(steps + (steps == 6), low, high)
            elif name == "KL Optimal":
                sigmas = torch.linspace(high, low, steps + 1)
            elif name == "Simple":  # starts elsewhere at every step count
                sigmas = k_diffusion.get_sigmas_exponential(steps, low, high * (1 - 0.1 / steps))
            else:
                sigmas = k_diffusion.get_sigmas_exponential(steps, low, high)
            return sigmas.cpu()

        def run(self, p: Any, x: Tensor, sigmas: Tensor) -> Tensor:
            self.model_wrap_cfg.p, self.model_wrap_cfg.step = p, 0
            parameters = inspect.signature(self.func).parameters
            assert "sigmas" in parameters
            cond = MulticondLearnedConditioning((len(x),), list(p.prompts))
            uncond = list(p.negative_prompts)
            extra_args = {
                "cond": cond,
                "image_cond": x.new_zeros(len(x), 5, 1, 1),
                "uncond": None if host.kind == "forge" and p.cfg_scale == 1 else uncond,
                "cond_scale": p.cfg_scale,
                "s_min_uncond": 0.0,
            }
            self.last_latent, steps = x, []
            try:
                return self.func(
                    self.model_wrap_cfg, x, extra_args=extra_args, disable=False,
                    callback=lambda d: steps.append(d["i"]), sigmas=sigmas,
                )  # fmt: skip
            except InterruptedException:
                return self.last_latent
            finally:
                p.callbacks = steps

    host.modules["modules.sd_samplers_kdiffusion"].KDiffusionSampler = KDiffusionSampler


def _processing(host: Host) -> None:
    module = host.modules["modules.processing"]

    @dataclass
    class Base:
        sd_model: Any = None
        prompt: Any = ""
        negative_prompt: Any = ""
        seed: Any = 0
        batch_size: int = 1
        n_iter: int = 1
        steps: int = 20
        cfg_scale: float = 7.0
        width: int = 64
        height: int = 64
        sampler_name: str = "DPM++ 2M"
        do_not_save_samples: bool = False
        do_not_save_grid: bool = False
        enable_hr: bool = False
        denoising_strength: float = 0.7
        hr_second_pass_steps: int = 0
        init_latent: Any = None

        def __post_init__(self) -> None:
            self.extra_generation_params: dict[str, Any] = {}
            self.comments: list[str] = []
            self.scripts: Any = "unset"
            self.is_hr_pass, self.closed = False, False

        def comment(self, text: str) -> None:
            self.comments.append(text)

        def close(self) -> None:
            self.closed = True

    if host.kind == "classic":
        module.StableDiffusionProcessingTxt2Img = Base
    else:

        @dataclass
        class WithScheduler(Base):
            scheduler: str = "Automatic"

        @dataclass
        class WithHiresCfg(WithScheduler):
            hr_cfg: float = 1.0
            distilled_cfg_scale: float = 3.5
            hr_distilled_cfg: float = 3.5

        forges = host.kind in ("forge", "reforge")
        module.StableDiffusionProcessingTxt2Img = WithHiresCfg if forges else WithScheduler
    module.process_images = functools.partial(_process_images, host)


def _process_images(host: Host, p: Any) -> Any:
    """One batch through the pipeline."""
    if host.kind == "reforge" and p.scripts is None:
        raise AttributeError("'NoneType' object has no attribute 'process'")
    if host.kind == "forge":
        host.sd_models.model_data.sd_model = host.shared.sd_model
    if not getattr(host.shared.cmd_opts, "no_prompt_history", False):
        (host.folder / "params.txt").write_text(str(p.prompt))
    many = isinstance(p.prompt, list)
    p.all_prompts = p.prompt if many else [p.prompt] * p.batch_size
    p.prompts = list(p.all_prompts)
    negative = p.negative_prompt
    p.negative_prompts = negative if many else [negative] * p.batch_size
    if host.kind != "classic":
        p.sampler_name, p.scheduler = host.sd_samplers.get_sampler_and_scheduler(
            p.sampler_name, p.scheduler
        )
    seed = p.seed[0] if isinstance(p.seed, list) else p.seed
    noise = torch.randn(p.batch_size, *SHAPE, generator=torch.Generator().manual_seed(seed))
    sampler, sigmas = _sampler(host, p, p.steps)
    if p.init_latent is not None:  # image to image: the end of a longer schedule
        sigmas = sigmas[len(sigmas) - 1 - int(p.denoising_strength * p.steps) :]
        noise = p.init_latent / sigmas[0] + noise
    p.start, p.sigmas = noise * sigmas[0], sigmas
    p.latent = sampler.run(p, p.start, sigmas)
    if p.enable_hr:
        p.is_hr_pass, p.main_sigmas = True, sigmas
        steps = p.hr_second_pass_steps or p.steps
        sampler, sigmas = _sampler(host, p, round(steps / p.denoising_strength))
        p.sigmas = sigmas[len(sigmas) - 1 - steps :]
        p.latent = sampler.run(p, p.latent + noise * p.sigmas[0], p.sigmas)
        p.is_hr_pass = False
    image = Image.new("RGB", (8, 8), (int(p.latent.abs().mean() * 100) % 256, 0, 0))
    return SimpleNamespace(images=[image] * len(p.latent))


def _sampler(host: Host, p: Any, steps: int) -> tuple[Any, Tensor]:
    if getattr(host.shared.sd_model, "use_shift", False):
        value = p.hr_distilled_cfg if p.is_hr_pass else p.distilled_cfg_scale
        host.predictor.set_parameters(shift=value)
    config = host.sd_samplers.all_samplers_map[p.sampler_name]
    sampler = config.constructor(host.shared.sd_model)
    sampler.config = config
    return sampler, sampler.get_sigmas(p, steps)


def _rest(host: Host) -> None:
    scripts, callbacks = host.modules["modules.scripts"], host.modules["modules.script_callbacks"]

    class Script:
        infotext_fields: Any = None

    class ScriptRunner:
        def __init__(self) -> None:
            self.scripts: list[Any] = []

    scripts.Script, scripts.ScriptRunner = Script, ScriptRunner
    scripts.AlwaysVisible, scripts.scripts_data = object(), []
    for name in ("ui_settings", "ui_tabs", "before_ui", "app_started", "after_component"):
        registered: list[Any] = []
        setattr(callbacks, f"callbacks_{name}", registered)
        setattr(callbacks, f"on_{name}", registered.append)
    host.modules["modules.call_queue"].queue_lock = threading.RLock()


def _main_thread(host: Host) -> None:
    """The thread that keeps the models, with each host's way to deal with an exception."""
    package, module = ModuleType("modules_forge"), ModuleType("modules_forge.main_thread")
    package.__path__ = []  # type: ignore[attr-defined]
    package.main_thread = module  # type: ignore[attr-defined]
    todo: list[Any] = []
    there, module.stopped = threading.Condition(), threading.Event()

    def loop() -> None:
        while True:
            with there:
                there.wait_for(lambda: todo)
                body, done = todo.pop(0)
            if body is None:
                module.stopped.set()
                return
            host.tasks += 1
            with contextlib.suppress(Exception):  # printed and forgotten; others end the thread
                body()
            done.set()

    def run_and_wait_result(body: Callable[[], Any]) -> None:
        done = threading.Event()
        with there:
            todo.append((body, done))
            there.notify()
        assert done.wait(60), "the host's thread has ended"

    def stop() -> None:
        with there:
            todo.append((None, None))
            there.notify()

    module.loop, module.run_and_wait_result, module.stop = loop, run_and_wait_result, stop
    host.modules.update({"modules_forge": package, "modules_forge.main_thread": module})


def run_main_thread(host: Host) -> None:
    """Start the host's loop, where it has one, and wait until it takes tasks."""
    module = host.modules.get("modules_forge.main_thread")
    if module is not None:
        threading.Thread(target=module.loop, daemon=True).start()
        module.run_and_wait_result(lambda: None)
        host.tasks = 0


def other_host(folder: Path) -> Host:
    """SD.Next, say: it has the names, but not the class that samplers are made of."""
    host = install("a1111", folder)
    del host.modules["modules.sd_samplers_kdiffusion"].KDiffusionSampler
    return host


def guided(host: Host, cfg: float) -> Any:
    """The guided denoiser without a host around it, for the prompt of txt2img."""

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        one, base = host.denoise(x, sigma, "a fox"), host.denoise(x, sigma, "")
        return base + (one - base) * cfg

    return denoiser


def a_profile(kind: str = "ve") -> dode.Profile:
    """Of a closed-form model."""
    model = mixture(kind, (4, 4, 4), components=3, std=0.6)
    high, low = (1.0, 0.003) if kind == "flow" else (14.7, 0.029)
    noise = randn(4, 4, 4, 4, seed=1) * high
    return dode.calibrate(model, noise, high, low, parametrization=kind)
