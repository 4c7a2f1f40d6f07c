"""On the real server: a table is used for what it was made for, and what cannot work says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from comfy_graphs import demo, distill, ksampler, node, run, table_files
from hosts.comfy import ComfyServer

import dode_core as dode


@pytest.fixture
def comfy(comfy_server: ComfyServer) -> ComfyServer:
    for file in comfy_server.models.rglob("*.dode.json"):
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


@pytest.mark.parametrize("cache", ["LazyCache"])
def test_a_step_cache(comfy: ComfyServer, cache: str) -> None:
    """One sentence instead of a table of the cache, whatever the batches."""
    settings = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95}
    cached = patched(demo(), cache, **settings, verbose=False)
    for samples, holdout in ((8, 0.5), (6, 0.25)):
        job = comfy.queue(distill(cached, samples=samples, holdout=holdout, batch_size=4))
        with pytest.raises(Exception, match="step cache .* take it off for distilling"):
            job.wait()
    assert not table_files(comfy)
