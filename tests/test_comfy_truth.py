"""What the host is told of a run: every sigma that the model is asked at, and by whose steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_pack import part, patcher
from hosts.checkpoints import WAN, write_diffusion_model

pytestmark = pytest.mark.usefixtures("pack")
OWN = [1.0, 0.6745, 0.4749, 0.2429, 0.0]


def riding(model: Any, **fields: Any) -> Any:
    made = {"solver": "ddim", "learned_sigmas": True, **fields}
    table = part("dode_core.tables.table").LambdaTable(**made)
    return part("nodes.apply_node").ApplyToModel.execute(model, table).result[0]


def run(guider: Any, latent: Any, sampler: Any, steps: int = 4, scheduler: str = "simple") -> Any:
    import comfy.samplers

    model = guider.model_patcher
    sigmas = comfy.samplers.KSampler(model, steps, "cpu", "euler", scheduler, 1.0).sigmas
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=0)


def watching(model: Any, missing: list[float], seen: set[int]) -> Any:
    """A MODEL that notes what it is asked at and is not in sample_sigmas."""

    def look(apply: Any, call: Any) -> Any:
        known = call["c"]["transformer_options"]["sample_sigmas"]
        seen.add(len(known))
        if not torch.isclose(known, call["timestep"][0].cpu(), rtol=1e-4).any():
            missing.append(float(call["timestep"][0]))
        return apply(call["input"], call["timestep"], **call["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(look)
    return watched


def test_context_windows_with_own_sigmas(tmp_path: Path) -> None:
    """A stock node that looks its step up, and every other one that does."""
    import comfy.samplers
    import comfy.sd
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    name = write_diffusion_model(tmp_path, WAN, "wan.safetensors")
    model = comfy.sd.load_diffusion_model(str(tmp_path / "diffusion_models" / name))
    model = riding(
        model, sigmas=OWN, lambdas=[[0.0, 0.0, 0.1]] * 4, parametrization="flow", gain=True
    )
    text = torch.randn(1, 4, 4096, generator=torch.Generator().manual_seed(1))
    latent = torch.zeros(1, 16, 9, 8, 8)

    def guided(patcher: Any) -> Any:
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds([[text, {}]], [[text, {}]])
        return guider

    missing: list[float] = []
    seen: set[int] = set()
    for sampler in ("dpmpp_2m", "dode"):
        run(guided(watching(model, missing, seen)), latent, sampler)
    assert not missing and seen == {5}
    windows = WanContextWindowsManualNode.execute(
        model,
        context_length=17,
        context_overlap=4,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
    ).result[0]
    assert run(guided(windows), latent, "dode").isfinite().all()


def scheduled(model: Any) -> Any:
    """As Inspire's Scheduled CFGGuider: an unknown sigma means the next step."""
    import comfy.samplers

    demo = part("nodes.host.demo_model")

    class Scheduled(comfy.samplers.CFGGuider):
        def plan(self, sigmas: Any) -> None:
            self.of = {float(s): i for i, s in enumerate(sigmas)}
            self.last, self.used = 0, []

        def set_cfg(self, cfg: float) -> None:
            pass

        def predict_noise(self, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            self.last = self.of.setdefault(float(timestep[0]), self.last + 1)
            self.cfg = 4.0 - 0.75 * self.last
            self.used.append(self.cfg)
            return super().predict_noise(x, timestep, *args, **kwargs)

    guider = Scheduled(model)
    guider.set_conds(demo.conditioning(1), demo.conditioning(0))
    guider.plan(comfy.samplers.KSampler(model, 4, "cpu", "euler", "karras", 1.0).sigmas)
    return guider


AHEAD = {"sigmas": [80.0, 9.0, 2.0, 0.4, 0.0], "lambdas": [[0.0, 0.0, 0.1]] * 4, "gain": True}


def test_a_guider_that_follows_the_steps_gets_no_look_ahead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import comfy.samplers

    model = part("nodes.host.demo_model").load_model("EDM")
    ahead = part("dode_core.solve.stages").LookAhead(30.0, (0.0, 0.0, 0.0))
    model = riding(model, **AHEAD, look_ahead=ahead)
    latent = torch.zeros(1, 3, 32, 32)
    for sampler in ("dpmpp_2m", "dode"):
        guider = scheduled(model)
        with caplog.at_level("INFO"):
            run(guider, latent, sampler, scheduler="karras")
        assert guider.used == [4.0, 3.25, 2.5, 1.75]
    assert "its look ahead is left out: this guider may follow the steps" in caplog.text

    plain = comfy.samplers.CFGGuider(model)  # the host's own keeps it, and is told of it
    demo = part("nodes.host.demo_model")
    plain.set_conds(demo.conditioning(1), demo.conditioning(0))
    missing: list[float] = []
    seen: set[int] = set()
    plain.model_patcher = watching(model, missing, seen)
    plain.model_options = plain.model_patcher.model_options
    run(plain, latent, "dode", scheduler="karras")
    assert not missing and seen == {5}


def test_stock_guiders_do_not_follow_steps(tmp_path: Path) -> None:
    from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    follows = part("nodes.host.told").follows_steps
    model = part("nodes.host.demo_model").load_model("EDM")
    for kind in (Guider_Basic, Guider_DualCFG, Guider_PerpNeg):
        assert not follows(kind(model))
    assert follows(scheduled(model)) and not follows(None)
    mark = part("nodes.host.wrapping").guider_mark
    dual = Guider_DualCFG(model)
    dual.set_cfg(3.0, 2.0)
    one = mark(dual)
    dual.set_cfg(3.0, 1.5)
    assert one != mark(dual) and one.startswith("DualCFG~") and mark(Guider_Basic(model)) == "CFG"


def test_parametrisation_is_the_models_own(tmp_path: Path) -> None:
    """Followed down ``inner_model``; the sigmas of a run say nothing about the model."""
    import comfy.samplers

    models = part("nodes.host.models")
    flow, edm = patcher(tmp_path), part("nodes.host.demo_model").load_model("EDM")
    for model, kind in ((flow, "flow"), (edm, "ve")):
        guider = comfy.samplers.CFGGuider(model)
        denoiser = comfy.samplers.KSamplerX0Inpaint(guider, torch.tensor([0.9, 0.5, 0.0]))
        assert models.known_parametrization(denoiser) == kind
        assert models.known_parametrization(model.model) == kind
    assert models.known_parametrization(lambda x, sigma: x) is None
    infer = part("dode_core.solve.noise").infer_parametrization
    run_of = [0.9, 0.5, 0.0]
    held = type("Run", (), {"sigmas": torch.tensor(run_of)})()
    assert infer(held, run_of) == "ve"
    held.sigmas = torch.linspace(0.01, 1, 100)
    assert infer(held, run_of) == "flow"


def test_a_shift_is_not_exact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table made at one shift is carried over to another one's schedule, and that is said."""
    import comfy.samplers
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    import nodes

    assert nodes
    model = patcher(tmp_path)
    three, eight = (ModelSamplingSD3().patch(model, shift)[0] for shift in (3.0, 8.0))
    asked = comfy.samplers.KSampler(three, 4, "cpu", "euler", "simple", 1.0).sigmas
    made = {"sigmas": OWN, "asked_sigmas": tuple(asked.tolist()), "parametrization": "flow"}
    made |= {"lambdas": [[0.1, 0.0]] * 4, "gain": True, "solver": "ddim", "learned_sigmas": True}
    identity = part("nodes.host.models").identify(three)
    table = part("dode_core.tables.table").LambdaTable(
        **made, model_fingerprint=identity.fingerprint
    )
    sampling = part("nodes.host.sampling")

    def choose(model: Any, sigmas: Any, cfg: float, own: Any) -> Any:
        return sampling.choose(model, sampling.query_of(model, sigmas, cfg), own)

    sigmas = comfy.samplers.KSampler(eight, 4, "cpu", "euler", "simple", 1.0).sigmas
    assert choose(three, asked, 1.0, table).resolution.kind == "exact"
    other = choose(eight, sigmas, 1.0, table)
    assert other.resolution.kind == "carried over"
    assert "another schedule" in other.resolution.message
    assert other.note == " (made with shift 3, this run has shift 8)"


def test_a_connected_table_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored ones serve before none does, and that is said."""
    import comfy.samplers

    model = part("nodes.host.demo_model").load_model("EDM")
    sampling, store = part("nodes.host.sampling"), part("nodes.host.store")
    make = part("dode_core.tables.table").LambdaTable
    who = part("nodes.host.models").identify(model)
    sigmas = comfy.samplers.KSampler(model, 4, "cpu", "euler", "karras", 1.0).sigmas
    stored = make(
        solver="ddim",
        sigmas=sigmas.double(),
        lambdas=[[0.1]] * 4,
        model_fingerprint=who.fingerprint,
    )
    own = make(solver="ddim", sigmas=[5.0, 0.0], lambdas=[[0.1]], gain=False)
    other = make(
        solver="ddim",
        sigmas=sigmas.double(),
        lambdas=[[0.2]] * 4,
        model_fingerprint=who.fingerprint.replace("prediction:x0", "prediction:v"),
    )
    found = [store.Stored(stored, Path("x.dode.json"))]
    monkeypatch.setattr(store, "find", lambda identity: found)
    query = sampling.query_of(model, sigmas, 1.0)
    choice = sampling.choose(model, query, own)
    assert choice.resolution.table is stored
    assert choice.note == (
        " (from x.dode.json, the connected table does not serve this run: it was made for 1 steps "
        "from sigma 5 to 0)"
    )
    choice = sampling.choose(model, query, other)
    assert choice.resolution.table is stored and "made for v prediction" in choice.note
    monkeypatch.setattr(store, "find", lambda identity: [])
    choice = sampling.choose(model, query, own)
    assert choice.resolution.table is None and "does not serve this run" in choice.note


def test_an_empty_latent_on_a_part_of_the_schedule(tmp_path: Path) -> None:
    """Refused, with what to do; an image's latent, and a whole schedule, are not."""
    check_start = part("nodes.host.before_work").check_start
    model = part("nodes.host.demo_model").load_model("EDM")
    empty, image = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    whole, rest = torch.tensor([80.0, 2.0, 0.0]), torch.tensor([2.0, 0.5, 0.0])
    check_start(model, empty, whole)
    check_start(model, image, rest)
    check_start(model, empty, rest.flip(0)[1:])  # unsampling starts from an image anyway
    error = part("dode_core.errors").CalibrationError
    with pytest.raises(error, match="start at 2, below the model's 80, but the latent is empty"):
        check_start(model, empty, rest)
