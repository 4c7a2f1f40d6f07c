"""Prompts in API format for the tests on the real server, and what comes back."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts.checkpoints import TinyModel
from hosts.comfy import ComfyServer, Run
from torch import Tensor

import dode_core as dode

Nodes = dict[str, dict[str, Any]]
_asked: Counter[str] = Counter()


def new_seed() -> int:
    """Another one on every call, or ComfyUI would not run again what it has run; a test gets the
    same ones whatever ran before it.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" (")[0]
    _asked[test] += 1
    return zlib.crc32(f"{test} {_asked[test]}".encode())


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


@dataclass(frozen=True)
class Source:
    """Nodes that give a model with its conditioning and an empty latent."""

    nodes: Nodes
    model: list[Any]
    positive: list[Any]
    negative: list[Any]
    latent: list[Any]

    def parts(self, latent: str = "latent_image") -> dict[str, Any]:
        """The inputs that every sampler node has."""
        inputs = {"model": self.model, "positive": self.positive, "negative": self.negative}
        return {**inputs, latent: self.latent}


def demo(batch: int = 2, subject: str = "food", variant: str = "EDM") -> Source:
    nodes = {"demo": node("DODE_DemoModel", subject=subject, variant=variant, batch_size=batch)}
    return Source(nodes, *(["demo", i] for i in range(4)))


def checkpoint(name: str, tiny: TinyModel, loader: str = "CheckpointLoaderSimple") -> Source:
    """A tiny checkpoint through a stock loader, 64x64 pixels."""
    condition = {"tokens": 4, "width": tiny.context, "pooled": tiny.pooled}
    empty = "EmptySD3LatentImage" if tiny.channels == 16 else "EmptyLatentImage"
    if loader == "UNETLoader":
        load = node(loader, unet_name=name, weight_dtype="default")
    else:
        load = node(loader, ckpt_name=name)
    nodes = {
        "load": load,
        "positive": node("TestConditioning", **condition, draw=1),
        "negative": node("TestConditioning", **condition, draw=2),
        "latent": node(empty, width=64, height=64, batch_size=2),
    }
    return Source(nodes, ["load", 0], ["positive", 0], ["negative", 0], ["latent", 0])


def distill(source: Source, **settings: Any) -> Nodes:
    """D-ODE Distill, small, as node "distill"; a setting of None is left out."""
    plan = {"solver": "ddim", "steps": 6, "cfg": 2.0, "scheduler": "karras", "samples": 4}
    plan |= {"seed": new_seed(), "method": "one lambda", **settings}
    inputs = {**source.parts("latent"), **plan}
    given = {name: value for name, value in inputs.items() if value is not None}
    return {**source.nodes, "distill": node("DODE_Distill", **given)}


def ksampler(source: Source, key: str = "k", sampler: str = "dode", **settings: Any) -> Nodes:
    """The stock KSampler, its latent saved by node ``key`` + "_save"."""
    plan = {"seed": 5, "steps": 6, "cfg": 2.0, "scheduler": "karras", "denoise": 1.0, **settings}
    sample = node("KSampler", **{**source.parts(), "sampler_name": sampler, **plan})
    return {**source.nodes, key: sample, **saved(key)}


def sampler_custom(
    source: Source, sampler: list[Any], sigmas: list[Any], key: str = "c", **settings: Any
) -> Nodes:
    """The stock SamplerCustom, its latent saved by node ``key`` + "_save"."""
    plan = {"add_noise": True, "noise_seed": 5, "cfg": 2.0, **settings}
    links = {"sampler": sampler, "sigmas": sigmas}
    sample = node("SamplerCustom", **{**source.parts(), **links, **plan})
    return {**source.nodes, key: sample, **saved(key)}


def saved(key: str) -> Nodes:
    return {f"{key}_save": node("SaveLatent", samples=[key, 0], filename_prefix=key)}


def run(server: ComfyServer, *graphs: Nodes) -> Result:
    """Queue and wait."""
    prompt = {key: value for graph in graphs for key, value in graph.items()}
    before = len(server.log())
    job = server.queue(prompt)
    outputs = job.wait()["outputs"]
    return Result(server, job, outputs, server.log()[before:])


@dataclass(frozen=True)
class Result:
    """What a run left: its events, outputs and log lines."""

    server: ComfyServer
    job: Run
    outputs: dict[str, Any]
    log: str

    def latent(self, key: str) -> Tensor:
        """What node ``key`` + "_save" saved."""
        return self.server.latent(self.outputs[f"{key}_save"]["latents"][0])

    def text(self, key: str = "distill") -> str:
        """The report in a node's body."""
        return "".join(self.outputs[key]["text"])

    def said(self) -> list[str]:
        """What the sampler logged, one line a run."""
        lines = [line for line in self.log.splitlines() if line.startswith("D-ODE: ")]
        return [line.removeprefix("D-ODE: ") for line in lines if " + " not in line]


def table_files(server: ComfyServer) -> list[Path]:
    """Every table file below models/."""
    return sorted(server.models.rglob("*.dode.json"))


def all_tables(server: ComfyServer) -> list[dode.LambdaTable]:
    """The tables of every file there is."""
    return [table for file in table_files(server) for table in dode.load_tables(file)]


def only_table(server: ComfyServer) -> dode.LambdaTable:
    """The one table of the one file there is."""
    (file,) = table_files(server)
    (table,) = dode.load_tables(file)
    return table


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())
