"""Parts of a schedule on the real server: image to image, start and end steps, masks, batches."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from comfy_graphs import (
    Nodes,
    Source,
    demo,
    distill,
    ksampler,
    node,
    rms,
    run,
    sampler_custom,
    saved,
)
from hosts.comfy import ComfyServer

STEPS = 10
SOURCE = demo(batch=3)


@pytest.fixture(scope="module")
def comfy(comfy_server: ComfyServer) -> ComfyServer:
    """The server with one table, of ten steps, for all tests here."""
    for file in comfy_server.models.rglob("*.dode.json"):
        file.unlink()
    run(comfy_server, distill(SOURCE, steps=STEPS, samples=8, seed=1))
    return comfy_server


def from_image() -> Source:
    """The demo model with an image to start from instead of an empty latent."""
    image = ksampler(SOURCE, "image", "dpmpp_2m", seed=77, steps=12)
    rest = (SOURCE.model, SOURCE.positive, SOURCE.negative)
    return Source({**SOURCE.nodes, **image}, *rest, ["image", 0])


def all_in_one(source: Source, key: str = "own", **settings: Any) -> Nodes:
    plan = {"seed": 5, "steps": STEPS, "cfg": 2.0, "scheduler": "karras", **settings}
    return {**source.nodes, key: node("DODE_KSampler", **source.parts(), **plan), **saved(key)}


@pytest.mark.parametrize(("denoise", "steps"), [(0.3, 3), (0.5, 5), (0.8, 8)])
def test_image_to_image(comfy: ComfyServer, denoise: float, steps: int) -> None:
    """The end of the ten steps, with the table's own numbers; nearer to the teacher than plain."""
    source = from_image()
    plan = {"steps": steps, "denoise": denoise}
    compare = node(
        "DODE_Compare",
        **source.parts(),
        vae=["demo", 4],
        cfg=2.0,
        peer="euler",
        scheduler="karras",
        seed=5,
        teacher_steps=4,
        **plan,
    )
    graphs = ksampler(source, **plan), all_in_one(source, **plan)
    result = run(comfy, *graphs, {"compare": compare})
    assert [line.split()[0] for line in result.said()].count("slice") == 2
    assert torch.equal(result.latent("k"), result.latent("own"))
    assert rms(result.latent("k"), result.latent("image")) > 0.01
    error = errors(result.text("compare"))
    assert error["D-DDIM"] < error["plain DDIM"]
    assert error["Euler"] == pytest.approx(error["plain DDIM"], abs=2e-4)


def errors(report: str) -> dict[str, float]:
    """The errors that D-ODE Compare shows, by column."""
    lines = [line.split(", ") for line in report.splitlines() if ", error " in line]
    return {line[0]: float(line[-1].split()[1]) for line in lines if line[-1].startswith("error ")}


def advanced(source: Source, key: str, first: int, last: int, **settings: Any) -> Nodes:
    plan = {
        "add_noise": "enable",
        "noise_seed": 5,
        "steps": STEPS,
        "cfg": 2.0,
        "sampler_name": "dode",
        "scheduler": "karras",
        "start_at_step": first,
        "end_at_step": last,
        "return_with_leftover_noise": "disable",
        **settings,
    }
    sample = node("KSamplerAdvanced", **{**source.parts(), **plan})
    return {**source.nodes, key: sample, **saved(key)}


def test_start_and_end_steps(comfy: ComfyServer) -> None:
    """Two halves, the noise left over between them, make nearly the whole."""
    first = advanced(SOURCE, "first", 0, 4, return_with_leftover_noise="enable")
    second = advanced(SOURCE, "second", 4, STEPS, add_noise="disable")
    second["second"]["inputs"]["latent_image"] = ["first", 0]
    whole = ksampler(SOURCE, "whole", steps=STEPS)
    euler = ksampler(SOURCE, "euler", "euler", steps=STEPS)
    result = run(comfy, first, second, whole, euler)
    kinds = sorted(line.split(":")[0] for line in result.said())
    assert kinds == ["exact table", "slice table", "slice table"]
    assert result.latent("first").std() > 2  # there is noise in it, sigma 4 of the schedule
    seam = rms(result.latent("second"), result.latent("whole"))
    assert seam < 0.75 * rms(result.latent("euler"), result.latent("whole"))


def test_end_step_without_leftover_noise(comfy: ComfyServer) -> None:
    """The schedule jumps to 0 at its end: an image, and what was used is said."""
    result = run(comfy, advanced(SOURCE, "cut", 0, 6))
    (line,) = result.said()
    assert line.split()[0] in ("interpolated", "uncalibrated:")
    image = result.latent("cut")
    assert image.isfinite().all() and 0.2 < image.std() < 1.2 and image.abs().max() < 2.5


def test_start_step_past_the_end(comfy: ComfyServer) -> None:
    """Nothing to do: ComfyUI gives the latent back."""
    source = from_image()
    result = run(comfy, advanced(source, "late", STEPS, 10000), saved("image"))
    assert torch.equal(result.latent("late"), result.latent("image"))
    assert result.said() == []


def test_inpainting(comfy: ComfyServer) -> None:
    """What the mask keeps stays as it was, the rest is new."""
    source = from_image()
    white = node("SolidMask", value=1.0, width=16, height=32)
    black = node("SolidMask", value=0.0, width=32, height=32)
    half = node(
        "MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=0, operation="add"
    )
    masked = node("SetLatentNoiseMask", samples=["image", 0], mask=["half", 0])
    nodes = {"white": white, "black": black, "half": half, "masked": masked}
    inpaint = Source({**source.nodes, **nodes}, *SOURCE_LINKS, ["masked", 0])
    for graph, key in (
        (ksampler(inpaint, steps=STEPS), "k"),
        (all_in_one(inpaint, steps=5, denoise=0.5), "own"),
    ):
        result = run(comfy, graph, saved("image"))
        before, after = result.latent("image"), result.latent(key)
        torch.testing.assert_close(after[..., 16:], before[..., 16:], rtol=0, atol=1e-4)
        assert rms(after[..., :16], before[..., :16]) > 0.05
        assert result.said()[0].split()[0] in ("exact", "slice")


SOURCE_LINKS = (SOURCE.model, SOURCE.positive, SOURCE.negative)


def test_batches(comfy: ComfyServer) -> None:
    """An image does not depend on how many are sampled with it."""
    one = ksampler(demo(batch=1), steps=STEPS)
    three = all_in_one(SOURCE)
    pick = node("LatentFromBatch", samples=["demo", 3], batch_index=2, length=1)
    third = Source({**SOURCE.nodes, "pick": pick}, *SOURCE_LINKS, ["pick", 0])
    batch = run(comfy, three).latent("own")
    alone = run(comfy, one).latent("k")
    last = run(comfy, all_in_one(third, "third")).latent("third")
    assert batch.shape[0] == 3
    torch.testing.assert_close(batch[:1], alone, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch[2:], last, rtol=1e-3, atol=1e-3)


def test_there_and_back(comfy: ComfyServer) -> None:
    """Ascending sigmas take an image to its noise, and the way down finds it again."""
    source = from_image()
    down = node("BasicScheduler", model=SOURCE.model, scheduler="karras", steps=40, denoise=0.6)
    nodes = {"down": down, "up": node("FlipSigmas", sigmas=["down", 0])}
    nodes["sampler"] = node("DODE_Sampler")
    up = sampler_custom(source, ["sampler", 0], ["up", 0], "noise", add_noise=False, cfg=1.0)
    back = Source(up, *SOURCE_LINKS, ["noise", 0])
    graph = sampler_custom(back, ["sampler", 0], ["down", 0], "back", add_noise=False, cfg=1.0)
    result = run(comfy, nodes, graph, saved("image"))
    noise, image = result.latent("noise"), result.latent("image")
    assert noise.std() > 1.5 * image.std()
    assert rms(result.latent("back"), image) < 0.1


@pytest.mark.parametrize("solver", ["auto", "heun", "dpm_solver_3"])
def test_callback_reports_the_current_x(comfy: ComfyServer, solver: str) -> None:
    """Once a step, the state that the model was evaluated at: what previews and packs build on."""
    nodes = {
        "sampler": node("DODE_Sampler", solver=solver),
        "watched": node("TestWitness", sampler=["sampler", 0], name=f"seen-{solver}"),
        "sigmas": node(
            "BasicScheduler", model=SOURCE.model, scheduler="karras", steps=STEPS, denoise=1.0
        ),
    }
    run(comfy, nodes, sampler_custom(SOURCE, ["watched", 0], ["sigmas", 0]))
    seen = json.loads((comfy.base / "output" / f"seen-{solver}.json").read_text())["seen"]
    steps = [each["i"] for each in seen]
    assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] <= STEPS - 1
    assert all(each["last"] == 0 for each in seen)
    if solver != "dpm_solver_3":  # which takes several nodes of the grid in a step
        assert steps == list(range(STEPS))
