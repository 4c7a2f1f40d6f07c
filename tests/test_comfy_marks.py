"""Two models that differ in the guided output never share an identity; two that do not, always."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfy_pack import part, patcher
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("pack")
LAYER = "diffusion_model.joint_blocks.0.x_block.mlp.fc1"
DISTINCT = 1e-6  # relative; the fast kernels are the same for equal inputs


@dataclass(frozen=True)
class Recipe:
    """A model as a workflow would make it; every field changes its guided output."""

    weights: int = 0
    loras: tuple[tuple[int, float], ...] = ()
    merge: tuple[int, float] | None = None
    rescale: float | None = None
    post: tuple[str, float] | None = None
    wrapper: float | None = None
    attention: float | None = None
    blend: float | None = None
    sampled: float | None = None
    activation: float | None = None
    injected: tuple[tuple[int, float], ...] = ()
    average: float | None = None
    curve: float | None = None
    shift: float | None = None
    kind: str = "flow"
    guider: tuple[str, float] = ("CFG", 0.0)
    cfg: float = 3.0


LEVELS = st.sampled_from([0.2, 0.35, 0.7])
RECIPES = st.builds(
    Recipe,
    weights=st.integers(0, 1),
    loras=st.lists(st.tuples(st.integers(0, 2), LEVELS), max_size=2).map(tuple),
    merge=st.none() | st.tuples(st.just(2), LEVELS),
    rescale=st.none() | LEVELS,
    post=st.none() | st.tuples(st.sampled_from(["scale", "shift"]), LEVELS),
    wrapper=st.none() | LEVELS,
    attention=st.none() | LEVELS,
    blend=st.none() | LEVELS,
    sampled=st.none() | LEVELS,
    activation=st.none() | LEVELS,
    injected=st.lists(st.tuples(st.integers(0, 2), LEVELS), max_size=1).map(tuple),
    average=st.none() | LEVELS,
    curve=st.none() | LEVELS,
    shift=st.none() | st.sampled_from([2.0, 8.0]),
    kind=st.sampled_from(["flow", "eps", "v"]),
    guider=st.sampled_from([("CFG", 0.0), ("Basic", 0.0), ("Scaled", 0.5), ("Scaled", 0.8)]),
)


class Scale:
    """What packs put on a model: an object with a number in it."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, args: dict[str, Any]) -> torch.Tensor:
        return args["denoised"] * (1 + self.by)


def shifted(by: float) -> Any:
    """And a closure over one."""
    return lambda args: args["denoised"] + by


class Stronger(torch.nn.Module):
    """A layer that takes another's place."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x) * (1 + self.by)


class Bypass:
    """As LoRAs that are injected beside a layer (ComfyUI's bypass loaders): its forward is replaced
    for the time of a run, by an object that keeps the old one.
    """

    def __init__(self, layer: Any, up: torch.Tensor, down: torch.Tensor, strength: float) -> None:
        self.layer, self.held = layer, SimpleNamespace(weights=(up, down), strength=strength)
        self.original: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, down = self.held.weights
        return self.original(x) + self.held.strength * (x @ down.T @ up.T)

    def inject(self) -> None:
        self.original, self.layer.forward = self.layer.forward, self.forward

    def eject(self) -> None:
        self.layer.forward, self.original = self.original, None


def injections(model: Any, seed: int, strength: float) -> list[Any]:
    from comfy.patcher_extension import PatcherInjection

    up, down = lora(seed).values()
    layer = model.model.get_submodule(LAYER)
    manager = SimpleNamespace(hooks=[Bypass(layer, up, down, strength)])

    def inject_all(patcher: Any) -> None:
        for hook in manager.hooks:
            hook.inject()

    def eject_all(patcher: Any) -> None:
        for hook in manager.hooks:
            hook.eject()

    return [PatcherInjection(inject=inject_all, eject=eject_all)]


def averaging(share: float) -> Any:
    """As APG: what earlier steps gave is kept in the closure."""
    running = None

    def average(args: dict[str, Any]) -> Any:
        nonlocal running
        cond, *others = args["conds_out"]
        running = cond if running is None else share * running + (1 - share) * cond
        return [running * (1 + share), *others]

    return average


@pytest.fixture(scope="module")
def bases(pack: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return [patcher(tmp_path_factory.mktemp("bases"), seed) for seed in range(3)]


def lora(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(100 + seed)
    up, down = (torch.randn(256, 2, generator=draw), torch.randn(2, 64, generator=draw))
    return {f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down}


def build(recipe: Recipe, bases: list[Any]) -> tuple[Any, Any]:
    """(MODEL, guider)."""
    import comfy.model_sampling as ms
    import comfy.samplers
    import comfy.sd

    model = bases[recipe.weights].clone()
    for seed, strength in recipe.loras:
        model, _ = comfy.sd.load_lora_for_models(model, None, lora(seed), strength, 0)
    if recipe.merge:
        other, ratio = recipe.merge
        theirs = bases[other].get_key_patches("diffusion_model.")
        for key in theirs:
            model.add_patches({key: theirs[key]}, 1 - ratio, ratio)
    if recipe.rescale is not None:
        by = recipe.rescale
        model.set_model_sampler_cfg_function(
            lambda args: args["uncond"] + by * args["cond_scale"] * (args["cond"] - args["uncond"])
        )
    if recipe.post:
        how, by = recipe.post
        model.set_model_sampler_post_cfg_function(Scale(by) if how == "scale" else shifted(by))
    if recipe.wrapper is not None:
        gain = recipe.wrapper
        model.set_model_unet_function_wrapper(
            lambda apply, call: gain * apply(call["input"], call["timestep"], **call["c"])
        )
    if recipe.attention is not None:
        less = recipe.attention

        def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            out = extra["original_block"](args)
            # (a factor alone would be lost in the layer norm behind it)
            return {**out, "img": out["img"] * less + args["img"] * (1 - less)}

        model.set_model_patch_replace(block, "dit", "double_block", 0)
    if recipe.blend is not None:
        share = torch.full((1,), recipe.blend)
        model.set_model_sampler_pre_cfg_function(
            lambda args: [each * (1 - share) for each in args["conds_out"]]
        )
    put_around(recipe, model)
    sampling = model.get_model_object("model_sampling")
    if recipe.kind == "flow" and recipe.shift is not None:
        kind = type("Shifted", (ms.ModelSamplingDiscreteFlow, ms.CONST), {})
        sampling = kind(model.model.model_config)
        sampling.set_parameters(shift=recipe.shift)
    if recipe.kind != "flow":
        meaning = ms.EPS if recipe.kind == "eps" else ms.V_PREDICTION
        kind = type("Advanced", (ms.ModelSamplingDiscrete, meaning), {})
        sampling = kind(None, zsnr=recipe.shift == 8.0)
    model.add_object_patch("model_sampling", sampling)
    return model, guided(recipe, model)


def put_around(recipe: Recipe, model: Any) -> None:
    """Wrappers, replaced layers, injections, closures with a memory, numpy's arrays."""
    from comfy.patcher_extension import WrappersMP

    if recipe.sampled is not None:
        more = recipe.sampled

        def predict(execute: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            return execute(*args, **kwargs) * (1 + more)

        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "more", predict)
    if recipe.activation is not None:
        model.add_object_patch("diffusion_model.t_embedder.mlp.1", Stronger(recipe.activation))
    for seed, strength in recipe.injected:
        model.set_injections("bypass", injections(model, seed, strength))
    if recipe.average is not None:
        model.set_model_sampler_pre_cfg_function(averaging(recipe.average))
    if recipe.curve is not None:
        curve = np.linspace(1, 1 + recipe.curve, 1000)
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * float(curve[-1]))


def guided(recipe: Recipe, model: Any) -> Any:
    from comfy.samplers import CFGGuider

    class Basic(CFGGuider):  # as Guider_Basic: plain guidance under another name
        pass

    class Scaled(CFGGuider):
        def __init__(self, model: Any, by: float) -> None:
            super().__init__(model)
            self.by = by

        def predict_noise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().predict_noise(*args, **kwargs) * self.by

    name, by = recipe.guider
    own = {"CFG": CFGGuider, "Basic": Basic}
    guider = own[name](model) if name in own else Scaled(model, by)
    guider.set_conds(cond(1), cond(2))
    guider.set_cfg(recipe.cfg)
    return guider


def cond(seed: int) -> list[Any]:
    draw = torch.Generator().manual_seed(seed)
    pooled = {"pooled_output": torch.randn(1, 64, generator=draw)}
    return [[torch.randn(1, 4, 64, generator=draw), pooled]]


def output(guider: Any) -> torch.Tensor:
    """The guided output at two sigmas that the schedule of the model has, from the same noise."""
    import comfy.samplers

    seen = []

    def ask(model: Any, x: Any, sigmas: Any, **options: Any) -> Any:
        args = options["extra_args"]
        for sigma in sigmas[:-1].tolist():
            seen.append(model(x * sigma, x.new_full((len(x),), sigma), **args))
        return x

    model = guider.model_patcher
    sigmas = comfy.samplers.KSampler(model, 3, "cpu", "euler", "simple", 1.0).sigmas[1:]
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(7))
    sampler = comfy.samplers.KSAMPLER(ask)
    guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1)
    return torch.stack([*seen, sigmas.max() * torch.ones_like(seen[0])])


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape != b.shape or float((a - b).norm()) > DISTINCT * float(a.norm() + b.norm())


def print_of(model: Any, guider: Any) -> str:
    return part("nodes.host.models").identify(model, guider=guider).fingerprint


def like(ours: str, theirs: str) -> str:
    return part("dode_core.tables.likeness").compare(ours, theirs).kind


@pytest.mark.parametrize("field", [name for name in vars(Recipe()) if name != "cfg"])
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(one=RECIPES, data=st.data())
def test_identity_is_everything_that_changes_the_guided_output(
    bases: list[Any], field: str, one: Recipe, data: st.DataObject
) -> None:
    """A recipe, and the same with one ingredient drawn anew; each is built twice."""
    other = replace(one, **{field: getattr(data.draw(RECIPES), field)})
    first, second = build(one, bases), build(other, bases)
    prints = print_of(*first), print_of(*second)
    outputs = output(first[1]), output(second[1])
    again = build(one, bases)
    assert print_of(*first) == prints[0] == print_of(*again)  # after a run, and of another session
    assert (like(*prints) == "same") == (not differ(*outputs)), (field, prints)


def between(low: float, high: float, cfg: float, bases: list[Any]) -> Any:
    """A MODEL with another cfg between two sigmas, put there as ComfyUI's CFG Override does it."""
    from comfy.patcher_extension import WrappersMP

    def predict(execute: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        guider = execute.class_obj
        before = guider.cfg
        guider.cfg = cfg if low <= float(args[1].flatten()[0]) <= high else before
        try:
            return execute(*args, **kwargs)
        finally:
            guider.cfg = before

    model = bases[0].clone()
    model.add_wrapper(WrappersMP.PREDICT_NOISE, predict)
    return model


def test_guidance_between_two_sigmas_is_another_model(bases: list[Any]) -> None:
    """Its range and its cfg too, so that a table made for it is its own."""
    everywhere = 0.0, 1.0
    plain, own = bases[0].clone(), between(*everywhere, 1.0, bases)
    assert differ(output(guided(Recipe(), plain)), output(guided(Recipe(), own)))
    models = [plain, own, between(0.0, 0.5, 1.0, bases), between(*everywhere, 2.0, bases)]
    prints = [print_of(model, guided(Recipe(), model)) for model in models]
    again = between(*everywhere, 1.0, bases)
    assert like(prints[1], print_of(again, guided(Recipe(), again))) == "same"
    for i, one in enumerate(prints):
        assert [like(one, other) for other in prints].index("same") == i
        assert sum(like(one, other) == "close" for other in prints) == 3
    said = part("dode_core.tables.likeness").compare(prints[0], prints[1]).doubts
    assert said and "made with" in said[0]


def test_a_prediction_type_is_refused(bases: list[Any]) -> None:
    """And the range of sigmas; another shift is not."""
    prints = {
        name: print_of(*build(recipe, bases))
        for name, recipe in {
            "flow": Recipe(),
            "shifted": Recipe(shift=8.0),
            "eps": Recipe(kind="eps"),
            "v": Recipe(kind="v"),
            "zsnr": Recipe(kind="v", shift=8.0),
        }.items()
    }
    for a, b in (("flow", "eps"), ("eps", "v"), ("v", "zsnr")):
        assert like(prints[a], prints[b]) == "refused"
    assert like(prints["flow"], prints["shifted"]) == "close"


class Layer(torch.nn.Module):
    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        self.value = state


@pytest.mark.parametrize("value", [None, {"scale": 1}, torch.ones(2), io.BytesIO(b"x")])
def test_extra_state_of_any_kind(bases: list[Any], value: Any) -> None:
    """torch allows anything there; what is no tensor says nothing and does not raise."""
    weights = part("nodes.host.weights")
    model = bases[0].clone()
    layer = Layer()
    layer.value = value
    before = print_of(model, None)
    model.model.diffusion_model.extra = layer
    weights._known.clear()
    try:
        assert like(print_of(model, None), before) == "same"
    finally:
        del model.model.diffusion_model.extra
        weights._known.clear()


def test_a_mark_that_read_nothing_is_no_mark(bases: list[Any]) -> None:
    """Meta tensors in state_dict() with the values in the parameters, as GGUF layers have them."""
    from types import SimpleNamespace

    class Hollow(torch.nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {"weight": torch.empty(4, 4, device="meta")}

    def model(net: Any) -> Any:
        return SimpleNamespace(
            model=SimpleNamespaceWithRef(diffusion_model=net, latent_format=object()), backup={}
        )

    class SimpleNamespaceWithRef(SimpleNamespace):
        __hash__ = object.__hash__

    marks = part("nodes.host.weights").weights_marks
    one, other = model(Hollow(4, 4)), model(Hollow(4, 4))
    assert marks(one)[0] == "" and marks(one)[1] != marks(other)[1]
    assert marks(model(torch.nn.Linear(4, 4, device="meta"))) == ("", "")


def test_other_weights_in_one_layer(tmp_path: Path) -> None:
    """A checkpoint with a LoRA merged into one layer is another checkpoint."""
    model = patcher(tmp_path)
    state = model.model.diffusion_model.joint_blocks[0].x_block.mlp.fc1.weight.data
    before = print_of(model, None)
    state += 0.02 * torch.randn(state.shape, generator=torch.Generator().manual_seed(3))
    part("nodes.host.weights")._known.clear()
    assert like(print_of(model, None), before) == "another"


def test_strengths_of_zero_and_torch_compile_say_nothing(bases: list[Any]) -> None:
    import comfy.sd

    plain = print_of(bases[0], None)
    model, _ = comfy.sd.load_lora_for_models(bases[0], None, lora(0), 0.0, 0)
    assert like(print_of(model, None), plain) == "same"
    compiled = bases[0].clone()
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    set_torch_compile_wrapper(compiled, backend="eager")
    assert like(print_of(compiled, None), plain) == "same"
