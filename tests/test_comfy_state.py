"""What changes while a model runs is no setting; all that does not is looked at, however deep."""

from __future__ import annotations

import collections
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfy_pack import part, patcher
from test_comfy_marks import injections, like, lora, output, print_of

pytestmark = pytest.mark.usefixtures("pack")


@pytest.fixture(scope="module")
def base(pack: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return patcher(tmp_path_factory.mktemp("base"))


def guider(model: Any) -> Any:
    from test_comfy_marks import Recipe, guided

    return guided(Recipe(), model)


def hooked(base: Any, function: Any) -> str:
    model = base.clone()
    model.set_model_sampler_post_cfg_function(function)
    return print_of(model, None)


class Dynamic:
    """As dynamic thresholding: an object that a closure holds, with a step that it is told."""

    def __init__(self, by: float) -> None:
        self.by, self.step, self.seen = by, 0, []
        self.set_top(1.0)

    def set_top(self, top: float) -> None:
        self.top = top

    def __call__(self, args: dict[str, Any]) -> Any:
        self.step += 1
        self.seen.append(self.step)
        return args["denoised"] * self.scale()

    def scale(self) -> float:
        self.last = self.by * self.top
        return self.last


def counting(by: float) -> Callable[[Any], Any]:
    count, kept, box = 0, {}, Dynamic(by)

    def count_up(args: dict[str, Any]) -> Any:
        nonlocal count
        count += 1
        kept["last"] = args["denoised"]
        box.step = count
        return args["denoised"] * box.by + reader(args) * 0

    def reader(args: dict[str, Any]) -> Any:  # reads what the other one has put there
        return count

    return count_up


@pytest.mark.parametrize("make", [Dynamic, counting])
def test_state_is_left_out_and_settings_are_not(base: Any, make: Any) -> None:
    one, other = make(0.5), make(0.6)
    before = hooked(base, one)
    for _ in range(3):
        one({"denoised": torch.ones(3)})
    assert hooked(base, one) == before == hooked(base, make(0.5))
    assert like(before, hooked(base, other)) == "close"


def test_what_a_setter_sets_is_a_setting(base: Any) -> None:
    one, other = Dynamic(0.5), Dynamic(0.5)
    other.set_top(2.0)
    assert like(hooked(base, one), hooked(base, other)) == "close"


@pytest.mark.parametrize(
    ("file", "node", "settings"),
    [
        ("nodes_apg", "APG", {"eta": 1.0, "norm_threshold": 5.0, "momentum": -0.5}),
        ("nodes_sag", "SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}),
    ],
)
def test_stock_nodes_that_remember(
    base: Any, file: str, node: str, settings: dict[str, float]
) -> None:
    """Their mark is the same before and after, and of another session."""
    import importlib

    kind = getattr(importlib.import_module(f"comfy_extras.{file}"), node)
    found = {
        name
        for name, cell in _cells(kind.execute(base, **settings).result[0])
        if id(cell) in _state(kind.execute(base, **settings).result[0]).cells
    }
    assert not found  # of another object
    model = kind.execute(base, **settings).result[0]
    before = print_of(model, None)
    state = _state(model)
    rebound = {name: cell for name, cell in _cells(model) if id(cell) in state.cells}
    assert rebound.keys() >= ({"running_avg"} if node == "APG" else {"attn_scores"})
    for cell in rebound.values():
        cell.cell_contents = torch.randn(4)
    assert print_of(model, None) == before
    assert like(before, print_of(kind.execute(base, **settings).result[0], None)) == "same"
    for name in settings:
        other = kind.execute(base, **{**settings, name: settings[name] + 0.5}).result[0]
        assert like(before, print_of(other, None)) == "close"


def _functions(model: Any) -> list[Any]:
    found = list(model.model_options.get("sampler_pre_cfg_function", []))
    found += model.model_options.get("sampler_post_cfg_function", [])
    patches = model.model_options["transformer_options"].get("patches_replace", {})
    return found + [each for kind in patches.values() for each in kind.values()]


def _cells(model: Any) -> list[tuple[str, Any]]:
    return [
        pair
        for function in _functions(model)
        for pair in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    ]


def _state(model: Any) -> Any:
    return part("nodes.host.state").State(_functions(model))


def test_a_run_with_everything_on_the_model(base: Any) -> None:
    """Before, in the middle of and after a run: one mark."""
    from test_comfy_marks import Recipe, build

    recipe = Recipe(activation=0.2, injected=((1, 0.35),), average=0.2, attention=0.7, curve=0.2)
    model, guide = build(recipe, [base])
    seen = [print_of(model, guide)]

    def look(apply: Any, call: Any) -> Any:
        seen.append(print_of(model, guide))
        return apply(call["input"], call["timestep"], **call["c"])

    watched, other = build(recipe, [base])
    other.model_options = {**other.model_options, "model_function_wrapper": look}
    output(other)
    seen.append(print_of(model, guide))
    assert len(seen) > 3 and len(set(seen)) == 1


def test_a_patched_layer_is_not_the_checkpoint(base: Any) -> None:
    """The first look may fall into a run, when another layer stands in one's place."""
    weights = part("nodes.host.weights")
    name = "diffusion_model.t_embedder.mlp.0"
    before = print_of(base, None)
    model = base.clone()
    model.add_object_patch(name, torch.nn.Linear(256, 64))
    other = print_of(model, None)
    weights._known.clear()
    model.patch_model()
    try:
        assert print_of(base, None) == before and print_of(model, None) == other
    finally:
        model.unpatch_model()
        weights._known.clear()
    assert like(before, other) == "close"


def test_loras_beside_a_layer_are_told_apart(base: Any) -> None:
    """Of one layout and strength, and however many layers there are."""

    def injected(seed: int, strength: float) -> str:
        model = base.clone()
        model.set_injections("bypass_lora", injections(model, seed, strength))
        return print_of(model, None)

    one = injected(1, 0.5)
    assert one == injected(1, 0.5)
    assert "bypass_lora" in one
    for other in (injected(2, 0.5), injected(1, 0.6)):
        assert like(one, other) == "close"


def test_hooks_of_a_prompt(base: Any) -> None:
    """A LoRA that rides on a prompt is known by value, and before the host puts it on the model."""
    import comfy.hooks

    def hooked_prompt(seed: int, strength: float, later: float | None = None) -> Any:
        group = comfy.hooks.create_hook_lora(lora(seed), strength, 0.0)
        if later is not None:
            frames = comfy.hooks.HookKeyframeGroup()
            frames.add(comfy.hooks.HookKeyframe(later, 0.5))
            group.set_keyframes_on_hooks(frames)
        guide = guider(base)
        conds = guide.original_conds["positive"]
        guide.original_conds = {
            **guide.original_conds,
            "positive": [{**cond, "hooks": group} for cond in conds],
        }
        return guide

    plain = print_of(base, guider(base))
    first = hooked_prompt(1, 0.5)
    one = print_of(base, first)
    found = part("dode_core.tables.likeness").compare(one, plain)
    assert found.kind == "close" and found.note == "made without hooks"
    assert not output(first).equal(output(guider(base)))
    assert print_of(base, first) == one == print_of(base, hooked_prompt(1, 0.5))
    others = hooked_prompt(2, 0.5), hooked_prompt(1, 0.6), hooked_prompt(1, 0.5, 0.3)
    for other in others:
        assert like(one, print_of(base, other)) == "close"


class Slots:
    __slots__ = ("by",)

    def __init__(self, by: float) -> None:
        self.by = by


class MoreSlots(Slots):
    __slots__ = ("other",)

    def __init__(self, by: float) -> None:
        super().__init__(by)
        self.other = 1.0


DEEP: Any = lambda by: [[[[[[[[[[[[by]]]]]]]]]]]]  # noqa: E731


@pytest.mark.parametrize(
    "make",
    [
        lambda by: np.linspace(0, by, 100),
        lambda by: np.float64(by),
        lambda by: collections.deque([by]),
        lambda by: range(int(by * 1000)),
        lambda by: torch.full((3,), by),
        lambda by: torch.full((300,), by),
        lambda by: frozenset([by]),
        lambda by: Slots(by),
        lambda by: MoreSlots(by),
        lambda by: SimpleNamespace(a=SimpleNamespace(b={"c": (by,)})),
        DEEP,
    ],
)
def test_settings_of_any_kind(base: Any, make: Callable[[float], Any]) -> None:
    def of(by: float) -> str:
        held = make(by)
        return hooked(base, lambda args: (held, args["denoised"])[1])

    assert of(0.5) == of(0.5) and like(of(0.5), of(0.51)) == "close"


def test_more_than_can_be_read_is_never_called_the_same(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models with the same first part of very much: perhaps not the same."""
    monkeypatch.setattr(part("nodes.host.anything"), "MAX_ITEMS", 50)
    held = [Slots(i) for i in range(100)]
    mark = hooked(base, lambda args: (held, args["denoised"])[1])
    found = part("dode_core.tables.likeness").compare(mark, mark)
    assert found.kind == "close" and found.same_weights
    assert "perhaps made with other settings of" in found.note


def test_a_lora_of_many_layers_is_read_to_its_end(base: Any) -> None:
    model, other = base.clone(), base.clone()
    layer = model.model.get_submodule("diffusion_model.x_embedder.proj")
    for each, last in ((model, 1.0), (other, 2.0)):
        up, down = lora(1).values()
        hooks = [
            SimpleNamespace(layer=layer, weights=(up, down, 1.0 if i < 800 else last))
            for i in range(801)
        ]
        each.set_injections("bypass_lora", [SimpleNamespace(hooks=hooks)])
    assert "partly_read" not in print_of(model, None)
    assert like(print_of(model, None), print_of(other, None)) == "close"


def test_patches_are_remembered_until_they_change(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashed once for a set of patches; a clone shares it, another LoRA, strength or order does not
    pass for it.
    """
    import comfy.sd

    weights = part("nodes.host.weights")
    weights._patches.clear()
    read: list[Any] = []
    hash_them = weights._patches_mark
    monkeypatch.setattr(
        weights, "_patches_mark", lambda patcher: read.append(patcher) or hash_them(patcher)
    )
    model, _ = comfy.sd.load_lora_for_models(base, None, lora(0), 0.5, 0)
    one = weights.patches_mark(model)
    assert one and weights.patches_mark(model) == weights.patches_mark(model.clone()) == one
    assert len(read) == 1
    other, _ = comfy.sd.load_lora_for_models(model.clone(), None, lora(1), 0.5, 0)
    assert weights.patches_mark(other) != one and weights.patches_mark(model) == one
    model.add_patches({"diffusion_model.final_layer.linear.bias": (torch.ones(64),)}, 0.5)
    assert weights.patches_mark(model) not in (one, weights.patches_mark(other))
    again, _ = comfy.sd.load_lora_for_models(base, None, lora(0), 0.5, 0)
    assert again.patches_uuid != model.patches_uuid
    assert weights.patches_mark(again) == one  # by value
    assert weights.patches_mark(base) == ""


def test_no_more_patches_are_remembered_than_there_is_room_for(base: Any) -> None:
    import comfy.sd

    weights = part("nodes.host.weights")
    for seed in range(weights.REMEMBERED + 3):
        model, _ = comfy.sd.load_lora_for_models(base, None, lora(seed), 0.5, 0)
        weights.patches_mark(model)
    assert len(weights._patches) == weights.REMEMBERED
