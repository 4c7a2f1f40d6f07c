"""Distil once on the real server: any steps, denoise, start and end step afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_graphs import (
    Source,
    demo,
    distill,
    ksampler,
    new_seed,
    node,
    rms,
    run,
    sampler_custom,
    saved,
    table_files,
)
from hosts.comfy import ComfyServer

import dode_core as dode


def once(source: Source, **settings: object) -> dict:
    """D-ODE Distill for any number of steps."""
    plan = {"samples": 8, "method": "any steps", "seed": 3, "steps": "6", "cfg": 2.0, **settings}
    return distill(source, **plan)


def profile_files(server: ComfyServer) -> list[Path]:
    return sorted(server.models.rglob("*.dode-profile"))


@pytest.fixture(scope="module")
def profiled(comfy_server: ComfyServer) -> Iterator[ComfyServer]:
    """A server on which the demo model was distilled once."""
    for file in (*table_files(comfy_server), *profile_files(comfy_server)):
        file.unlink()
    result = run(comfy_server, once(demo(batch=4)))
    report, title = result.text(), "distilling for any number of steps"
    told = [
        data["text"].splitlines() for kind, data in result.job.events if kind == "dode.progress"
    ]
    cost = next(lines[1] for lines in told if len(lines) > 1)
    # 8 samples, 64 each; 4 of them in 7 runs of 4 steps, one in 8: is it few-step already?
    assert cost.startswith("at most 656 model evaluations, about ")
    assert [title, cost] in told and f"D-ODE: {title}: {cost}." in result.log
    first, then = report.splitlines()[:2]  # what it is worth, measured where it was compared
    words = r"(expected )?(\d+% |much |about as )close(r)? to the many-step image .+ at \d+ steps.*"
    assert re.fullmatch(words, first)
    assert then.startswith("ready for any number of steps") and "saved in" in report
    assert "the many-step image than DPM++ 2M at 6 steps" in report
    assert "measured" in report and "lambda" not in report
    (file,) = profile_files(comfy_server)
    assert dode.Profile.load(file).cfg == 2.0
    yield comfy_server
    for file in profile_files(comfy_server):  # or it serves the tests of the next file
        file.unlink()


def advanced(source: Source, key: str, sampler: str, **settings: object) -> dict:
    """The stock KSamplerAdvanced, its latent saved."""
    plan = {
        **{"add_noise": "enable", "noise_seed": 5, "steps": 8, "cfg": 2.0, "scheduler": "karras"},
        **{"start_at_step": 0, "end_at_step": 8, "return_with_leftover_noise": "disable"},
        **settings,
    }
    sample = node("KSamplerAdvanced", **{**source.parts(), "sampler_name": sampler, **plan})
    return {**source.nodes, key: sample, **saved(key)}


@pytest.mark.parametrize("steps", [4, 7, 13])
def test_any_number_of_steps(profiled: ComfyServer, steps: int) -> None:
    source = demo(batch=4)
    result = run(
        profiled,
        ksampler(source, "ours", steps=steps),
        ksampler(source, "peer", "dpmpp_2m", steps=steps),
        ksampler(source, "goal", "heun", steps=60),
    )
    assert f"D-ODE: profile: {steps} steps" in result.log
    goal = result.latent("goal")
    assert rms(result.latent("ours"), goal) < rms(result.latent("peer"), goal)


def test_another_schedule_is_served_as_well(profiled: ComfyServer) -> None:
    result = run(profiled, ksampler(demo(), "k", steps=6, scheduler="simple"))
    assert "D-ODE: profile: 6 steps, on its own noise levels" in result.log


def test_image_to_image(profiled: ComfyServer) -> None:
    """From an image that was made in many steps, half made anew."""
    source = demo(batch=4)
    image = ksampler(source, "image", "heun", steps=40)
    from_it = Source(image, *source.parts().values())
    from_it = Source(image, source.model, source.positive, source.negative, ["image", 0])
    result = run(
        profiled,
        ksampler(from_it, "ours", steps=5, denoise=0.5, seed=9),
        ksampler(from_it, "peer", "dpmpp_2m", steps=5, denoise=0.5, seed=9),
        ksampler(from_it, "goal", "heun", steps=60, denoise=0.5, seed=9),
    )
    assert "D-ODE: profile: 5 steps from sigma" in result.log
    goal = result.latent("goal")
    assert rms(result.latent("ours"), goal) < 1.2 * rms(result.latent("peer"), goal)


def test_an_image_that_hardly_changes(profiled: ComfyServer) -> None:
    """Many steps that start next to the lowest sigma."""
    result = run(profiled, ksampler(demo(), "k", steps=14, denoise=0.02))
    assert "D-ODE: profile: 14 steps from sigma 0.003" in result.log
    assert result.latent("k").isfinite().all()


def test_start_and_end_steps(profiled: ComfyServer) -> None:
    """A run in two parts: the first ends above 0 and keeps its schedule, the second goes on."""
    source = demo(batch=2)
    first = advanced(source, "first", "dode", end_at_step=4, return_with_leftover_noise="enable")
    second = Source(first, source.model, source.positive, source.negative, ["first", 0])
    result = run(profiled, advanced(second, "second", "dode", add_noise="disable", start_at_step=4))
    said = "\n".join(result.said())
    assert "profile: 4 steps, on your schedule" in said
    assert "profile: 4 steps from sigma" in said
    assert result.latent("second").isfinite().all()


def test_it_is_found_again_and_made_for_another_cfg(profiled: ComfyServer) -> None:
    assert "nothing to do" in run(profiled, once(demo(batch=4), steps="9")).text()
    other = run(profiled, ksampler(demo(), "k", steps=6, cfg=3.0))
    assert "made at cfg 2, this run uses 3" in other.log
    known = profile_files(profiled)
    run(profiled, once(demo(batch=4), cfg=4.0))
    (file,) = set(profile_files(profiled)) - set(known)
    try:  # and between the two a run takes both
        between = run(profiled, ksampler(demo(), "k", steps=6, cfg=3.0))
        assert "between the profiles of cfg 2 and 4" in between.log
        assert "made at cfg" not in between.log
        assert rms(between.latent("k"), other.latent("k")) > 1e-3
    finally:
        file.unlink()


def test_a_table_for_just_this_run_comes_first(profiled: ComfyServer) -> None:
    # DEIS is ahead of the sampler that it is measured beside; a table behind it would give way.
    run(profiled, distill(demo(batch=4), steps="6", solver="deis", samples=8, seed=1))
    try:
        assert "exact table" in run(profiled, ksampler(demo(), "k", steps=6)).log
        assert "profile: 7 steps" in run(profiled, ksampler(demo(), "k", steps=7)).log
    finally:
        for file in table_files(profiled):
            file.unlink()


def test_the_best_for_some_steps_goes_on_from_the_profile(profiled: ComfyServer) -> None:
    plan = {"steps": "4", "samples": 8, "method": "columns and sigmas", "seed": 1}
    try:
        report = run(profiled, distill(demo(batch=4), **plan)).text()
        assert "learned on from this model's profile" in report
        assert "exact table" in run(profiled, ksampler(demo(), "k", steps=4)).log
    finally:
        for file in table_files(profiled):
            file.unlink()


def test_a_damaged_profile_is_named_and_left_out(profiled: ComfyServer) -> None:
    (file,) = profile_files(profiled)
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:1000])
        result = run(profiled, ksampler(demo(), "k", steps=6, seed=77))
        assert "It is left out" in result.log and "uncalibrated" in result.log
    finally:
        file.write_bytes(whole)


def test_what_is_connected_serves_every_run(profiled: ComfyServer) -> None:
    """TABLE of a profile, on the MODEL and through a sampler node, for other steps and a part."""
    source = demo(batch=2)
    apply = {"apply": node("DODE_ApplyToModel", model=source.model, table=["distill", 0])}
    riding = Source(apply, ["apply", 0], source.positive, source.negative, source.latent)
    sampler = {"sampler": node("DODE_Sampler", table=["distill", 0])}
    result = run(
        profiled,
        once(demo(batch=4), steps="8"),
        ksampler(riding, "whole", steps=5, seed=31),
        ksampler(riding, "part", steps=4, denoise=0.6, seed=31),
        {**sampler, **sampler_custom(source, ["sampler", 0], ["distill", 1])},
    )
    said = sorted(line for line in result.said() if line.startswith("profile"))
    assert [line.split(",")[0].split(" from")[0] for line in said] == [
        "profile: 4 steps",
        "profile: 5 steps",
        "profile: 8 steps",
    ]
    assert not any("connected" in line for line in said)
    assert not [kind for kind, _ in result.job.events if kind == "dode.notice"]


def test_a_schedule_can_be_kept(profiled: ComfyServer) -> None:
    """By D-ODE Sampler, with what is connected and with what it finds."""
    source = demo(batch=4)
    sigmas = {"s": node("BasicScheduler", model=source.model, scheduler="beta", steps=7, denoise=1)}
    for table in ({}, {"table": ["distill", 0]}):
        sampler = {"sampler": node("DODE_Sampler", keep_schedule=True, **table)}
        graph = sampler_custom(source, ["sampler", 0], ["s", 0])
        (said,) = run(profiled, sigmas, once(source), sampler, graph).said()[-1:]
        assert said.startswith("profile: 7 steps, on your schedule")


def test_the_all_in_one_node_keeps_a_schedule_too(profiled: ComfyServer) -> None:
    source = demo(batch=4)
    plan = {"seed": new_seed(), "steps": 7, "cfg": 2.0, "scheduler": "beta", "denoise": 1.0}
    said = []
    for keep in (True, False):
        one = node("DODE_KSampler", **source.parts(), **plan, keep_schedule=keep)
        said += run(profiled, {**source.nodes, "k": one, **saved("k")}).said()[-1:]
    assert said[0].startswith("profile: 7 steps, on your schedule")
    assert said[1].startswith("profile: 7 steps, on its own noise levels")


def test_a_profile_is_saved_under_a_name_of_ones_own(profiled: ComfyServer) -> None:
    before = set(profile_files(profiled))
    keep = {"save": node("DODE_SaveTable", table=["distill", 0], filename="my own")}
    try:
        text = run(profiled, once(demo(batch=4), steps="7"), keep).text("save")
        assert "any number of steps" in text and "saved in dode/my own.dode-profile" in text
        (made,) = set(profile_files(profiled)) - before
        assert dode.Profile.load(made).cfg == 2.0
    finally:
        for file in set(profile_files(profiled)) - before:
            file.unlink()
