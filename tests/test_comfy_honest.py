"""On the real server: a table is used for what it was made for, and what cannot work says so."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from comfy_graphs import checkpoint, demo, distill, ksampler, node, run, table_files
from hosts.checkpoints import WAN, write_diffusion_model
from hosts.comfy import ComfyServer

import dode_core as dode


@pytest.fixture
def comfy(comfy_server: ComfyServer) -> ComfyServer:
    for file in comfy_server.models.rglob("*.dode[.-]*"):
        file.unlink()
    return comfy_server


def patched(source: Any, kind: str, **settings: Any) -> Any:
    """The model of a source through one more stock node."""
    nodes = {**source.nodes, "patch": node(kind, model=source.model, **settings)}
    return replace(source, nodes=nodes, model=["patch", 0])


def test_another_guided_output_is_another_table(comfy: ComfyServer) -> None:
    """RescaleCFG on the MODEL: made, not found; the first table stays; a run says which it took."""
    plain, same = demo(), {"seed": 77, "steps": 5, "cfg": 4.0}
    rescaled = patched(plain, "RescaleCFG", multiplier=0.7)
    run(comfy, distill(plain, **same))
    (line,) = run(comfy, ksampler(rescaled, steps=5, cfg=4.0)).said()
    assert line.startswith("exact") and "made without RescaleCFG" in line
    assert "nothing to do" not in run(comfy, distill(rescaled, **same)).text()
    (line,) = run(comfy, ksampler(rescaled, steps=5, cfg=4.0, seed=6)).said()
    assert line.startswith("exact") and "made" not in line
    assert "nothing to do" in run(comfy, distill(plain, **same, samples=4)).text()
    run(comfy, distill(rescaled, **same, re_distill=True))
    (file,) = table_files(comfy)
    first, second = dode.load_tables(file)
    assert first.lambdas.tolist() != second.lambdas.tolist()
    (line,) = run(comfy, ksampler(plain, steps=5, cfg=4.0, seed=7)).said()
    assert line.startswith("exact") and "made" not in line


def wan(server: ComfyServer) -> Any:
    """A video transformer that the stock step caches act on, at cfg 1."""
    name = write_diffusion_model(server.models, WAN, "honest_wan.safetensors")
    source = checkpoint(name, WAN, "UNETLoader")
    video = node("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1)
    return replace(source, nodes={**source.nodes, "latent": video})


CACHE = {"reuse_threshold": 0.5, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_a_step_cache_on_a_real_transformer(comfy: ComfyServer, cache: str) -> None:
    """It skips steps of a stock run; no way to distill makes a table of it; `dode` samples on."""
    cached = patched(wan(comfy), cache, **CACHE)
    settings = {"steps": 20, "cfg": 1.0, "scheduler": "simple"}
    stock = run(comfy, ksampler(cached, sampler="euler", **settings))
    skipped = re.search(rf"{cache} - skipped (\d+)/20", stock.log)
    assert skipped and int(skipped[1]) > 0
    for method in ("any steps", "columns and sigmas", "one lambda"):
        how = {"method": method, "samples": 8, "cfg": 1.0, "scheduler": "simple"}
        job = comfy.queue(distill(cached, **how))
        with pytest.raises(Exception, match=f"{cache}, a step cache, .* take it off for dist"):
            job.wait()
    assert not list(comfy.models.rglob("*.dode[.-]*"))
    assert run(comfy, ksampler(cached, **settings)).latent("k").isfinite().all()


@pytest.mark.parametrize("method", ["any steps", "one lambda"])
def test_a_step_cache_of_no_known_name(comfy: ComfyServer, method: str) -> None:
    """As other packs put them on: known by its answers alone, before the work."""
    cached = patched(wan(comfy), "TestSkipper", threshold=0.3)
    how = {"method": method, "samples": 8, "cfg": 1.0, "scheduler": "simple"}
    job = comfy.queue(distill(cached, **how))
    with pytest.raises(Exception, match="when it is asked again .* a step cache .* take it off"):
        job.wait()
    assert not list(comfy.models.rglob("*.dode[.-]*"))


def test_a_lazy_cache_whatever_the_batches(comfy: ComfyServer) -> None:
    cached = patched(demo(), "LazyCache", **CACHE)
    for samples, holdout in ((8, 0.5), (6, 0.25)):
        job = comfy.queue(distill(cached, samples=samples, holdout=holdout, batch_size=4))
        with pytest.raises(Exception, match="step cache .* take it off for distilling"):
            job.wait()
    assert not table_files(comfy)
