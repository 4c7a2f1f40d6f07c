"""What the adapter touches of ComfyUI, all of it, and what newer versions do differently."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_pack import load_nodes, part, patcher, table
from torch import Tensor

pytestmark = pytest.mark.usefixtures("pack")

ROOT = Path(__file__).resolve().parent.parent
HOST = (
    "comfy",
    "comfy_api",
    "comfy_execution",
    "folder_paths",
    "latent_preview",
    "nodes",
    "server",
)

# Everything of the host that a file of nodes/ names. A new entry is a new thing that can break on
# somebody's update: add it only after a look at both ends of the supported versions.
SYMBOLS = [
    "comfy.conds.CONDRegular",
    "comfy.k_diffusion.sampling",
    "comfy.latent_formats.LatentFormat",
    "comfy.model_base.BaseModel",
    "comfy.model_base.ModelType.EPS",
    "comfy.model_base.ModelType.FLOW",
    "comfy.model_management.get_torch_device",
    "comfy.model_management.intermediate_device",
    "comfy.model_management.throw_exception_if_processing_interrupted",
    "comfy.model_management.unet_offload_device",
    "comfy.model_patcher.ModelPatcher",
    "comfy.model_sampling.CONST",
    "comfy.model_sampling.EPS",
    "comfy.model_sampling.ModelSamplingContinuousEDM",
    "comfy.nested_tensor.NestedTensor",
    "comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING",
    "comfy.sample.fix_empty_latent_channels",
    "comfy.sample.prepare_noise",
    "comfy.samplers.CFGGuider",
    "comfy.samplers.CFGGuider.set_cfg",
    "comfy.samplers.KSAMPLER",
    "comfy.samplers.KSampler",
    "comfy.samplers.KSampler.SAMPLERS",
    "comfy.samplers.SAMPLER_NAMES",
    "comfy.samplers.SCHEDULER_NAMES",
    "comfy.samplers.sampler_object",
    "comfy.sd.VAE",
    "comfy.supported_models_base.BASE",
    "comfy.utils.PROGRESS_BAR_ENABLED",
    "comfy.utils.ProgressBar",
    "comfy.utils.repeat_to_batch_size",
    "comfy_api.latest.ComfyExtension",
    "comfy_api.latest.io",
    "comfy_api.latest.ui.PreviewImage",
    "comfy_execution.utils.get_executing_context",
    "folder_paths.add_model_folder_path",
    "folder_paths.get_folder_paths",
    "folder_paths.get_full_path",
    "folder_paths.models_dir",
    "latent_preview.get_previewer",
    "nodes.NODE_CLASS_MAPPINGS",
    "server.PromptServer",
]

# And of the objects that it hands us.
PATCHER = [
    "add_wrapper_with_key",
    "backup",
    "clone",
    "get_model_object",
    "load_device",
    "model",
    "model_options",
    "patches",
    "wrappers",
]
GUIDER = ["cfg", "model_options", "model_patcher", "sample", "set_cfg", "set_conds"]


def names_in(file: Path) -> Iterator[str]:
    """The host's symbols in a file, as long as they are written out: comfy.samplers.KSAMPLER."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.split(".")[0] in HOST:
                    local = each.asname or each.name.split(".")[0]
                    known[local] = each.name if each.asname else local
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = node.names if module.split(".")[0] in HOST else []
            known |= {each.asname or each.name: f"{module}.{each.name}" for each in names}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            root, *rest = ast.unparse(node).split(".")
            if root in known:
                yield ".".join([known[root], *rest])


def resolve(name: str) -> Any:
    """The object behind a dotted name; raises AttributeError or ImportError."""
    first, *rest = name.split(".")
    found: Any = importlib.import_module(first)
    path = first
    for part_name in rest:
        path = f"{path}.{part_name}"
        if not hasattr(found, part_name) and isinstance(found, ModuleType):
            importlib.import_module(path)
        found = getattr(found, part_name)
    return found


def test_only_listed_symbols_are_touched() -> None:
    touched = {name for file in sorted((ROOT / "nodes").rglob("*.py")) for name in names_in(file)}
    outside = {
        name
        for name in touched
        if not name.startswith("comfy_api.latest.io.")  # schemas, which load or do not
        and not any(name == known or name.startswith(f"{known}.") for known in SYMBOLS)
        and not any(known.startswith(f"{name}.") for known in SYMBOLS)
    }
    assert outside == set()
    unused = {known for known in SYMBOLS if not any(name.startswith(known) for name in touched)}
    assert unused == {"nodes.NODE_CLASS_MAPPINGS"}  # imported by name: it is not our ``nodes``


@pytest.mark.parametrize("name", SYMBOLS)
def test_the_host_has_it(name: str) -> None:
    assert resolve(name) is not None


def test_objects_of_the_host(tmp_path: Path) -> None:
    import comfy.samplers

    model = patcher(tmp_path)
    assert [name for name in PATCHER if not hasattr(model, name)] == []
    guider = comfy.samplers.CFGGuider(model)
    assert [name for name in GUIDER if not hasattr(guider, name)] == []
    assert model.model.latent_format.latent_channels == 16
    assert model.model.diffusion_model.state_dict()


# What is different in 2026


class Host:
    """A denoiser behind a guider that has no ``cfg``."""

    def __init__(self) -> None:
        self.inner_model = SimpleNamespace(model_patcher=None)

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


SIGMAS = torch.tensor([10.0, 3.0, 1.0, 0.0])


def test_a_guider_without_cfg() -> None:
    guidance = part("nodes.host.models").guidance
    assert guidance(None) is None and guidance(SimpleNamespace()) is None
    assert guidance(SimpleNamespace(cfg=3)) == 3.0


@pytest.mark.parametrize("trange", [True, False], ids=["model_trange", "no model_trange"])
def test_the_callback_is_always_given(monkeypatch: pytest.MonkeyPatch, trange: bool) -> None:
    """And reads i, denoised and x of every step; the host's own step counter is not needed."""
    import comfy.utils

    if trange:
        monkeypatch.setattr(comfy.utils, "model_trange", range, raising=False)
    else:
        monkeypatch.delattr(comfy.utils, "model_trange", raising=False)
    seen: list[tuple[int, torch.Size, torch.Size]] = []

    def callback(step: dict[str, Any]) -> None:
        seen.append((step["i"], step["denoised"].shape, step["x"].shape))

    x = torch.randn(2, 4, 8, 8) * 10
    stages = part("dode_core.solve.solvers").SOLVERS["heun"].stages(SIGMAS.tolist())
    plain = part("nodes.host.comparing").stages_sampler(stages, "ve").sampler_function
    for sampler in (part("nodes.host.sampling").sample_dode, plain):
        seen.clear()
        sampler(Host(), x, SIGMAS, extra_args={}, callback=callback, disable=True)
        assert seen == [(i, x.shape, x.shape) for i in range(3)]


def test_a_calibration_gets_a_callback_too() -> None:
    format = SimpleNamespace(taesd_decoder_name=None, latent_rgb_factors=None)
    model = SimpleNamespace(load_device="cpu", model=SimpleNamespace(latent_format=format))
    live, teacher = part("nodes.host.live").Live(model), part("dode_core.fit.teacher").Teacher()
    settings = part("nodes.host.calibrate").DistillSettings("ddim", teacher, 4, 0.25, 0, 4, None)
    calibration = part("nodes.host.calibrate").DistillSampler(settings, "ve", live)
    x = torch.randn(4, 2, 4, 4) * 10
    assert calibration(Host(), x, SIGMAS, extra_args={}, callback=print, disable=True) is x
    assert calibration.table is not None


def test_advanced_is_known_to_the_host(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer inputs have an attribute of that name, and ``extra_dict`` goes over it."""
    from comfy_api.latest import io

    plain = io.Int.Input.as_dict

    def as_dict(self: Any) -> dict[str, Any]:
        return {"advanced": getattr(self, "advanced", False), **plain(self)}

    monkeypatch.setattr(io.Int.Input, "as_dict", as_dict)
    nodes = {node.GET_SCHEMA().node_id: node for node in load_nodes(pack)}
    inputs = {each.id: each.as_dict() for each in nodes["DODE_Distill"].GET_SCHEMA().inputs}
    assert inputs["samples"]["advanced"] is True and not inputs["steps"].get("advanced", False)


def test_previews_of_nested_latents(tmp_path: Path) -> None:
    """Packed in 0.3.75, and there is no picture of that; handed over in parts by newer hosts."""
    from comfy.nested_tensor import NestedTensor

    live = part("nodes.host.live").Live(patcher(tmp_path))
    shown: list[Tensor] = []

    def decode(kind: str, latent: Tensor) -> tuple[str, Any, int]:
        shown.append(latent)
        return kind, None, 512

    live.previewer = SimpleNamespace(decode_latent_to_preview_image=decode)
    live(1, 4, torch.zeros(2, 1, 100))
    assert shown == []
    live(2, 4, NestedTensor([torch.zeros(2, 16, 8, 8), torch.zeros(2, 4, 30)]))
    assert [latent.shape for latent in shown] == [(1, 16, 8, 8)]


def test_a_preview_is_never_worth_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = part("nodes.host.live").Live(patcher(tmp_path))
    live.previewer = SimpleNamespace(decode_latent_to_preview_image=lambda *_: 1 / 0)
    for done in (1, 2):
        live(done, 4, torch.zeros(1, 16, 8, 8))
    assert caplog.text.count("no live preview of a latent") == 1


def test_a_queue_kept_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the running prompt cannot be found, tables are, by fingerprint."""
    import server

    monkeypatch.setattr(server.PromptServer, "instance", SimpleNamespace(), raising=False)
    assert part("nodes.host.origin").running_prompt() == ({}, None)
    mine = table(sigmas=SIGMAS, lambdas=[[0.5]] * 3)
    args = {"model_options": {"transformer_options": {"dode": mine}}}
    out = part("nodes.host.sampling").sample_dode(
        Host(), torch.randn(1, 4), SIGMAS, args, disable=True
    )
    assert out.isfinite().all()
