"""D-ODE Distill's methods on the real server: columns, and sigmas that the table brings along."""

from __future__ import annotations

import pytest
import torch
from comfy_graphs import Source, demo, distill, ksampler, node, only_table, rms, run, sampler_custom
from hosts.comfy import ComfyError, ComfyServer

import dode_core as dode
from dode_core.demo.model import CLASSES, IMAGE_SHAPE, load_demo


def test_columns_and_sigmas(comfy: ComfyServer) -> None:
    """Nearer to the teacher than one lambda; KSampler takes the table's sigmas by itself."""
    source = demo(batch=4)
    work = distill(source, steps=6, samples=8, method="columns and sigmas", seed=3)
    sampler = {"sampler": node("DODE_Sampler", table=["distill", 0], solver="auto")}
    run(comfy, work)
    table = only_table(comfy)
    assert table.learned_sigmas and table.columns == 2 and table.gain
    assert table.evaluations <= 300
    assert table.look_ahead is not None and len(table.look_ahead.mean) == 3
    result = run(
        comfy,
        work,
        sampler,
        sampler_custom(source, ["sampler", 0], ["distill", 1]),
        ksampler(source, "k", steps=6),
        ksampler(source, "euler", "euler", steps=6),
        ksampler(source, "teacher", "heun", steps=40),
    )
    assert "exact table" in result.log and "own noise levels" in result.log
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


def test_a_user_who_chooses_nothing_distills_for_any_steps(comfy: ComfyServer) -> None:
    report = run(comfy, distill(demo(), steps=4, samples=8, method=None)).text()
    assert "ready for any number of steps" in report
    (file,) = comfy.models.rglob("*.dode-profile")
    assert dode.Profile.load(file).samples_fit == 5


def test_too_few_samples_for_any_steps(comfy: ComfyServer) -> None:
    with pytest.raises(ComfyError, match="4 samples are too few .*; use 8 or more"):
        run(comfy, distill(demo(), steps=4, samples=4, method="any steps"))


def test_sigmas_that_do_not_descend_are_kept(comfy: ComfyServer) -> None:
    """Unsampling: columns are learned, the grid stays."""
    source = demo()
    schedule = node("BasicScheduler", model=["demo", 0], scheduler="karras", steps=4, denoise=1.0)
    sigmas = {"down": schedule, "sigmas": node("FlipSigmas", sigmas=["down", 0])}
    work = distill(source, sigmas=["sigmas", 0], method="columns and sigmas", re_distill=True)
    result = run(comfy, sigmas, work)
    table = only_table(comfy)
    assert float(table.sigmas[0]) < 0.01 and float(table.sigmas[-1]) == pytest.approx(80, rel=1e-4)
    assert not table.learned_sigmas and table.columns == 2
    assert "do not descend" in result.log


def test_prompts_take_turns(comfy: ComfyServer) -> None:
    """The table is the one that the same samples with alternating classes give."""
    sources = [demo(subject=subject) for subject in ("food", "people")]
    nodes = {f"demo{i}": source.nodes["demo"] for i, source in enumerate(sources)}
    nodes["prompts"] = node("DODE_Prompts", prompt_1=["demo0", 1], prompt_2=["demo1", 1])
    links = {"demo0": ["demo0", 0], "prompts": ["prompts", 0], "negative": ["demo0", 2]}
    source = Source(nodes, links["demo0"], links["prompts"], links["negative"], ["demo0", 3])
    run(comfy, distill(source, steps=5, samples=8, seed=21))
    table = only_table(comfy)

    generator = torch.Generator().manual_seed(21)
    x = torch.randn(8, *IMAGE_SHAPE, generator=generator) * float(table.sigmas[0])
    labels = torch.tensor([CLASSES.index(name) for name in ("food", "people")]).repeat(4)
    model = load_demo()

    def expected(labels: torch.Tensor) -> torch.Tensor:
        args = {"labels": labels, "cfg": 2.0}
        return dode.distill(model, x, table.sigmas, extra_args=args, batch_size=4).lambdas

    torch.testing.assert_close(table.lambdas, expected(labels), rtol=5e-3, atol=5e-3)
    assert rms(table.lambdas, expected(labels[:1].repeat(8))) > 0.02
