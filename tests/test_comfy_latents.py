"""Latents that are no images on the real server: video in 5 dimensions, nested ones in a pack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_graphs import (
    Nodes,
    Source,
    checkpoint,
    distill,
    ksampler,
    node,
    only_table,
    rms,
    run,
    saved,
    table_files,
)
from hosts.checkpoints import SD3, WAN, write_diffusion_model
from hosts.comfy import ComfyServer
from PIL import Image

SPREAD = 0.5


def test_video(comfy: ComfyServer) -> None:
    """A tiny Wan: its table, its sidecar, its samples; a 4-D latent is made one of video."""
    name = write_diffusion_model(comfy.models, WAN, "wan.safetensors")
    still = checkpoint(name, WAN, "UNETLoader")
    empty = node("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=2)
    video = Source({**still.nodes, "latent": empty}, *_links(still))
    run(comfy, distill(video, scheduler="simple", samples=3))
    table = only_table(comfy)
    assert table.latent_shape == (16, 3, 8, 8) and table.parametrization == "flow"
    result = run(comfy, ksampler(video, scheduler="simple"))
    assert result.said()[0].startswith("exact table") and "from wan.dode.json" in result.log
    assert result.latent("k").shape == (2, 16, 3, 8, 8)
    assert result.latent("k").isfinite().all()
    own = {**still.nodes, "own": node("DODE_KSampler", **still.parts(), **PLAN), **saved("own")}
    assert run(comfy, own).latent("own").shape == (2, 16, 1, 8, 8)


PLAN: dict[str, Any] = {"seed": 5, "steps": 6, "cfg": 2.0, "scheduler": "simple"}


def _links(source: Source) -> tuple[Any, ...]:
    return source.model, source.positive, source.negative, source.latent


def nested() -> Source:
    """A model whose exact solution is known, on a latent of an image and a longer part."""
    return Source(
        {
            "load": node("UNETLoader", unet_name="nested.safetensors", weight_dtype="default"),
            "positive": node("TestConditioning", tokens=4, width=64, pooled=64, draw=1),
            "negative": node("TestConditioning", tokens=4, width=64, pooled=64, draw=2),
            "latent": node("TestNestedLatent", batch_size=2),
            "gaussian": node("TestGaussian", model=["load", 0], spread=SPREAD),
        },
        ["gaussian", 0],
        ["positive", 0],
        ["negative", 0],
        ["latent", 0],
    )


def in_parts(key: str) -> Nodes:
    """Both parts of what node ``key`` gives, saved."""
    nodes: Nodes = {}
    for i in range(2):
        part = f"{key}{i}"
        nodes |= {part: node("TestNestedPart", samples=[key, 0], part=i), **saved(part)}
    return nodes


def solution(batch: int = 2) -> list[torch.Tensor]:
    """Where the noise of seed 5 ends up: the model's ODE scales it to the data's spread."""
    generator = torch.manual_seed(5)
    shapes = (batch, 16, 8, 8), (batch, 4, 30)
    return [torch.randn(shape, generator=generator) * SPREAD for shape in shapes]


@pytest.mark.parametrize("kind", ["KSampler", "DODE_KSampler", "SamplerCustomAdvanced"])
def test_nested(rough_server: ComfyServer, kind: str) -> None:
    """One table for all parts together; every sampler node takes it nearer to the solution.

    On the server without previews: the stock nodes' own fail on such a latent of SD3.
    """
    comfy = rough_server
    for file in table_files(comfy):
        file.unlink()
    write_diffusion_model(comfy.models, SD3, "nested.safetensors", seed=30)
    source = nested()
    run(comfy, distill(source, scheduler="simple"))
    assert only_table(comfy).errors is not None

    plan = {**PLAN, **source.parts()}
    stock = {**plan, "denoise": 1.0}
    euler = node("KSampler", **stock, sampler_name="euler")
    own: Nodes = {"own": node(kind, **plan)}
    if kind == "KSampler":
        own = {"own": node(kind, **stock, sampler_name="dode")}
    if kind == "SamplerCustomAdvanced":
        text = {"positive": source.positive, "negative": source.negative}
        own = {
            "sigmas": node(
                "BasicScheduler", model=source.model, scheduler="simple", steps=6, denoise=1.0
            ),
            "guider": node("CFGGuider", model=source.model, **text, cfg=2.0),
            "noise": node("RandomNoise", noise_seed=5),
            "sampler": node("DODE_Sampler"),
            "own": node(
                kind,
                noise=["noise", 0],
                guider=["guider", 0],
                sampler=["sampler", 0],
                sigmas=["sigmas", 0],
                latent_image=source.latent,
            ),
        }
    graphs = own, {"euler": euler}, in_parts("own"), in_parts("euler")
    result = run(comfy, source.nodes, *graphs)
    assert result.said()[0].startswith("exact table: D-DDIM, 6 steps, cfg 2")
    for i, goal in enumerate(solution()):
        ours, plain = (rms(result.latent(f"{key}{i}"), goal) for key in ("own", "euler"))
        assert ours < 0.8 * plain


def test_nested_in_compare(comfy: ComfyServer) -> None:
    """The picture is of the first part, the errors are of all."""
    write_diffusion_model(comfy.models, SD3, "nested.safetensors", seed=30)
    source = nested()
    plan = {"steps": 4, "cfg": 2.0, "peer": "euler", "teacher_steps": 20}
    vae = {"sd3": node("TestVAE", channels=16)}
    graph = {"compare": node("DODE_Compare", **source.parts(), vae=["sd3", 0], **plan)}
    result = run(comfy, source.nodes, vae, graph)
    image: Image.Image = comfy.image(result.outputs["compare"]["images"][0])
    assert image.width > 4 * 256
    assert "Euler, 4 evaluations, error 0." in result.text("compare")
