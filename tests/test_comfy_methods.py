"""D-ODE Distill's methods on the real server: columns, and sigmas that the table brings along."""

from __future__ import annotations

import torch
from comfy_graphs import demo, distill, ksampler, node, only_table, rms, run, sampler_custom
from hosts.comfy import ComfyServer


def test_columns_and_sigmas(comfy: ComfyServer) -> None:
    """Nearer to the teacher than one lambda; KSampler takes the table's sigmas by itself."""
    source = demo(batch=4)
    work = distill(source, steps=6, samples=8, method="columns and sigmas", seed=3)
    sampler = {"sampler": node("DODE_Sampler", table=["distill", 0], solver="auto")}
    run(comfy, work)
    table = only_table(comfy)
    assert table.learned_sigmas and table.columns == 2 and table.gain
    assert table.evaluations <= 300
    result = run(
        comfy,
        work,
        sampler,
        sampler_custom(source, ["sampler", 0], ["distill", 1]),
        ksampler(source, "k", steps=6),
        ksampler(source, "euler", "euler", steps=6),
        ksampler(source, "teacher", "heun", steps=40),
    )
    assert "exact table" in result.log and "own sigmas" in result.log
    ours, plain, goal = (result.latent(key) for key in ("k", "euler", "teacher"))
    torch.testing.assert_close(ours, result.latent("c"), rtol=1e-4, atol=1e-4)
    assert rms(ours, goal) < 0.6 * rms(plain, goal)
    again = distill(source, steps=6, samples=8, method="columns and sigmas", seed=3, batch_size=3)
    assert "nothing to do" in run(comfy, again).text()
    # A part of the schedule is not what it was made for.
    part = run(comfy, ksampler(source, "k", steps=6, denoise=0.6))
    assert "uncalibrated" in part.log


def test_columns_on_the_hosts_grid(comfy: ComfyServer) -> None:
    source = demo()
    run(comfy, distill(source, steps=6, samples=8, method="columns"))
    table = only_table(comfy)
    assert (table.columns, table.gain, table.learned_sigmas) == (2, True, False)
    assert "exact table" in run(comfy, ksampler(source, "k", steps=6)).log
