"""DodeScheduler: any pipeline's own loop with a table is our sampler with that table."""

from __future__ import annotations

import builtins
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import mixture, randn

import dode_core as dode
from dode_core.offline.loading import Loaded, Wanted
from dode_core.offline.sources import load
from dode_core.solve.noise import alpha
from dode_core.solve.stages import LookAhead

KINDS = ["sd", "sd_v", "sdxl", "sd3", "flux"]
PROMPTS = ["a cat", "dog"]
CFG = 2.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny pipeline of every kind, in a folder of its kind's name."""
    from hosts.pipelines import KINDS as MAKERS
    from hosts.pipelines import write_pipeline

    root = tmp_path_factory.mktemp("pipelines")
    for kind in MAKERS:
        write_pipeline(root / kind, kind)
    write_pipeline(root / "sd_v", "sd", prediction="v_prediction")
    return root


@pytest.fixture(scope="module")
def pipelines(folders: Path) -> dict[str, Loaded]:
    found = {kind: load(str(folders / kind), Wanted(PROMPTS, "bad", (64, 64))) for kind in KINDS}
    for loaded in found.values():
        pipe_of(loaded).set_progress_bar_config(disable=True)
    return found


def pipe_of(loaded: Loaded) -> Any:
    return loaded.model.pipe  # type: ignore[attr-defined]


@pytest.fixture
def loaded(request: pytest.FixtureRequest, pipelines: dict[str, Loaded]) -> Any:
    """A pipeline that has its own scheduler back afterwards."""
    found = pipelines[request.param]
    pipe = pipe_of(found)
    own = pipe.scheduler
    yield found
    pipe.scheduler = own


def a_table(kind: str, solver: str, steps: int = 4, **more: Any) -> dode.LambdaTable:
    """Lambdas that are far from those of any known solver, on sigmas that no schedule has."""
    if kind in ("sd3", "flux"):
        sigmas, parametrization = [1.0, 0.83, 0.6, 0.31, 0.2, 0.1, 0.05], "flow"
    else:
        sigmas, parametrization = [14.6146, 6.2, 2.5, 0.9, 0.5, 0.3, 0.2], "ve"
    columns = more.pop("columns", 1)
    generator = torch.Generator().manual_seed(3)
    lambdas = 0.3 * torch.randn(steps, columns, dtype=torch.float64, generator=generator)
    grid = torch.tensor([*sigmas[:steps], 0.0], dtype=torch.float64)
    return dode.LambdaTable(solver, grid, lambdas, parametrization, **more)


def noise(loaded: Loaded, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, *loaded.shape, generator=torch.Generator().manual_seed(seed))


def theirs(loaded: Loaded, x: torch.Tensor, steps: int, pipe: Any = None, **more: Any) -> Any:
    """What the pipeline's own loop makes of unit noise x."""
    pipe = pipe or pipe_of(loaded)
    flux = "Flux" in type(pipe).__name__
    out = pipe(
        prompt=PROMPTS,
        num_inference_steps=steps,
        guidance_scale=CFG,
        latents=pipe._pack_latents(x, *x.shape) if flux else x,
        output_type="latent",
        **({} if flux else {"negative_prompt": ["bad"] * len(x)}),
        **({} if "image" in more else {"height": 64, "width": 64}),
        **more,
    ).images
    return pipe._unpack_latents(out, 64, 64, pipe.vae_scale_factor) if flux else out


def ours(loaded: Loaded, x: torch.Tensor, sigmas: Any, **how: Any) -> torch.Tensor:
    """Our own sampler on the same network; x is the state at sigmas[0]."""
    args = loaded.conditions(len(x), CFG)
    kind = {"parametrization": loaded.parametrization, "disable": True}
    return dode.sample(loaded.model, x, sigmas, args, **kind, **how)


def install(loaded: Loaded, table: Any, **how: Any) -> dode.DodeScheduler:
    pipe = pipe_of(loaded)
    pipe.scheduler = dode.DodeScheduler.from_table(table, pipe.scheduler, **how)
    return pipe.scheduler


@pytest.mark.parametrize("solver", ["ddim", "ipndm", "deis", "ddim_x0", "dpmpp_2m"])
@pytest.mark.parametrize("loaded", KINDS, indirect=True)
def test_it_is_our_sampler(solver: str, loaded: Loaded) -> None:
    kind = loaded.parametrization
    table = a_table("sd3" if kind == "flow" else "sd", solver)
    scheduler = install(loaded, table)
    x = noise(loaded)
    got = theirs(loaded, x, 4)
    want = ours(loaded, x * table.sigmas[0].float(), table.sigmas, table=table)
    assert want.std() > 0.3 and scheduler.message.startswith("exact")
    torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
    plain = ours(loaded, x * table.sigmas[0].float(), table.sigmas, solver=solver)
    assert (want - plain).abs().max() > 0.01  # the lambdas arrive
    torch.testing.assert_close(theirs(loaded, x, 4), got)  # nothing is left of the first run


@pytest.mark.parametrize("loaded", ["sd", "sdxl", "sd_v"], indirect=True)
def test_columns_a_gain_and_a_look_ahead(loaded: Loaded) -> None:
    ahead = LookAhead(9.0, (0.3, -0.2, 0.1, 0.4))
    table = a_table("sd", "ddim", columns=3, gain=True, learned_sigmas=True, look_ahead=ahead)
    scheduler = install(loaded, table)
    x = noise(loaded)
    start = x * table.sigmas[0].float()
    got, want = theirs(loaded, x, 4), ours(loaded, start, table.sigmas, table=table)
    torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
    assert scheduler.timesteps[0] < 999 and scheduler.init_noise_sigma == pytest.approx(14.6146)


@pytest.mark.parametrize("loaded", KINDS, indirect=True)
def test_another_step_count_runs_on_the_pipelines_sigmas(
    loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    """Never no image: plain DPM++ 2M, on the sigmas that the pipeline had, and it says so."""
    table = a_table("sd3" if loaded.parametrization == "flow" else "sd", "ddim", columns=2)
    pipe = pipe_of(loaded)
    theirs(loaded, noise(loaded), 6)
    sigmas = pipe.scheduler.sigmas.tolist()
    scheduler = install(loaded, table)
    x = noise(loaded)
    with caplog.at_level(logging.WARNING):
        got = theirs(loaded, x, 6)
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas)
    want = ours(loaded, x * sigmas[0], sigmas, solver="dpmpp_2m")
    torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
    assert "uncalibrated" in scheduler.message and scheduler.message in caplog.text


@pytest.mark.parametrize("loaded", ["sd", "sd3", "flux"], indirect=True)
def test_tables_of_several_step_counts_and_cfgs(loaded: Loaded, tmp_path: Path) -> None:
    kind = "sd" if loaded.parametrization == "ve" else "sd3"
    tables = [a_table(kind, "ddim", n, cfg=c, learned_sigmas=True) for n in (3, 5) for c in (2, 9)]
    dode.save_tables(tmp_path / "some.dode.json", tables)
    scheduler = install(loaded, tmp_path / "some.dode.json", cfg=9.0)
    x = noise(loaded)
    for steps, table in ((3, tables[1]), (5, tables[3])):
        got = theirs(loaded, x, steps)
        want = ours(loaded, x * table.sigmas[0].float(), table.sigmas, table=table)
        torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
        assert "cfg 9" in scheduler.message


def image_to_image(loaded: Loaded, name: str) -> Any:
    import diffusers

    parts = dict(pipe_of(loaded).components)
    if name == "StableDiffusionImg2ImgPipeline":
        parts["requires_safety_checker"] = False
    pipe = getattr(diffusers, name)(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


IMG2IMG = [
    ("sd", "StableDiffusionImg2ImgPipeline"),
    ("sdxl", "StableDiffusionXLImg2ImgPipeline"),
    ("sd3", "StableDiffusion3Img2ImgPipeline"),
]


@pytest.mark.parametrize(("loaded", "name"), IMG2IMG, indirect=["loaded"])
def test_image_to_image_takes_a_part(loaded: Loaded, name: str) -> None:
    """Half of the steps of a table with a look ahead: its slice, from the noised latent."""
    flow = loaded.parametrization == "flow"
    more: dict[str, Any] = {} if flow else {"look_ahead": LookAhead(9.0, (0.1, 0.2, 0.3, 0.4))}
    table = a_table("sd3" if flow else "sd", "ddim", learned_sigmas=True, **more)
    scheduler = install(loaded, table)
    pipe = image_to_image(loaded, name)
    clean = noise(loaded, 5)
    states = []

    def keep(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        states.append(kwargs["latents"])
        return kwargs

    torch.manual_seed(11)
    out = pipe(
        prompt=PROMPTS,
        image=clean,  # already a latent
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=CFG,
        negative_prompt=["bad", "bad"],
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
        callback_on_step_end=keep,
    ).images
    assert len(states) == 2 and scheduler.message.startswith("slice")
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    sigmas = table.sigmas[2:]
    sigma = float(sigmas[0])
    start = clean * alpha(sigma, loaded.parametrization) + sigma * drawn
    want = ours(loaded, start, sigmas, table=table)
    torch.testing.assert_close(out, want, rtol=2e-4, atol=5e-4)


@pytest.mark.parametrize("loaded", ["sd3", "flux"], indirect=True)
def test_sigmas_that_a_user_chose_are_kept(loaded: Loaded) -> None:
    """A schedule by hand: 3 steps that no table was made for, though there is a table of 3."""
    scheduler = install(loaded, a_table("sd3", "ddim", 3, columns=2))
    theirs(loaded, noise(loaded), 3, sigmas=[0.9, 0.5, 0.2])
    shifted = [3 * s / (1 + 2 * s) for s in (0.9, 0.5, 0.2)]  # as the pipeline does to any
    assert scheduler.sigmas.tolist() == pytest.approx([*shifted, 0.0])


@pytest.mark.parametrize("loaded", ["sd"], indirect=True)
def test_half_precision_and_a_second_pipeline(loaded: Loaded) -> None:
    """Outputs keep the network's type; a scheduler made from another of ours is the same."""
    pipe = pipe_of(loaded)
    scheduler = install(loaded, a_table("sd", "ipndm"))
    again = dode.DodeScheduler.from_table(a_table("sd", "ipndm"), pipe.scheduler)
    results = []
    for each in (scheduler, again):
        each.set_timesteps(4)
        x = noise(loaded).half() * each.init_noise_sigma
        for t in each.timesteps:
            shown = each.scale_model_input(x, t)
            step = each.step(torch.sin(3 * shown), t, x)
            assert step.prev_sample.dtype == torch.float16
            x = step.prev_sample
        results.append(x)
    assert torch.equal(*results) and torch.isfinite(results[0]).all()


# A profile


@cache
def profile(kind: str) -> dode.Profile:
    """Of a closed-form model with the pipelines' noise levels and channels."""
    channels = 4 if kind == "ve" else 16
    high, low = (14.6146, 0.029) if kind == "ve" else (1.0, 0.01)
    shape = (channels, 4, 4)
    model = mixture(kind, shape, components=4, std=0.6)
    x = randn(8, *shape, seed=1) * high
    return dode.calibrate(model, x, high, low, parametrization=kind)


@pytest.mark.parametrize("steps", [2, 6])
@pytest.mark.parametrize("loaded", ["sd", "sd_v", "sdxl", "sd3", "flux"], indirect=True)
def test_a_profile_serves_any_number_of_steps(loaded: Loaded, steps: int) -> None:
    made = profile(loaded.parametrization)
    scheduler = install(loaded, made)
    x = noise(loaded)
    got = theirs(loaded, x, steps)
    table = made.table(steps)
    assert table.steps == steps and table.learned_sigmas
    start = x * table.sigmas[0].float()
    want = ours(loaded, start, table.sigmas, table=table)
    torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
    plain = ours(loaded, start, table.sigmas, solver="ddim")
    assert (want - plain).abs().max() > 0.01  # the rows arrive
    assert scheduler.message.startswith(f"profile: {steps} steps, on its own noise levels")


@pytest.mark.parametrize(("loaded", "name"), IMG2IMG, indirect=["loaded"])
def test_a_profile_serves_image_to_image(loaded: Loaded, name: str) -> None:
    """Rows that were made for the part that is run, not those of the whole run."""
    made = profile(loaded.parametrization)
    scheduler = install(loaded, made)
    clean = noise(loaded, 5)
    out = image_to_image(loaded, name)(
        prompt=PROMPTS,
        image=clean,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=CFG,
        negative_prompt=["bad", "bad"],
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
    ).images
    part = made.table(6).sigmas[3:]
    sigma = float(part[0])
    assert scheduler.message.startswith(f"profile: 3 steps from sigma {sigma:.4g}")
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    start = clean * alpha(sigma, loaded.parametrization) + sigma * drawn
    want = ours(loaded, start, part, table=made.table(sigmas=part))
    torch.testing.assert_close(out, want, rtol=2e-4, atol=5e-4)


@pytest.mark.parametrize("loaded", ["sd3"], indirect=True)
def test_a_profile_on_sigmas_that_a_user_chose(loaded: Loaded) -> None:
    made = profile("flow")
    scheduler = install(loaded, made)
    x = noise(loaded)
    got = theirs(loaded, x, 3, sigmas=[1.0, 0.5, 0.2])
    grid = scheduler.sigmas.double()
    assert grid.tolist() == pytest.approx([1.0, 3 * 0.5 / 2, 3 * 0.2 / 1.4, 0.0])
    want = ours(loaded, x, grid, table=made.table(sigmas=grid))
    torch.testing.assert_close(got, want, rtol=2e-4, atol=5e-4)
    assert scheduler.message.startswith("profile: 3 steps, on your schedule")


@pytest.mark.parametrize("loaded", ["sd"], indirect=True)
def test_more_steps_than_a_profile_makes_sigmas_for(loaded: Loaded) -> None:
    """Its rows on the pipeline's own sigmas; and plain where those leave its range."""
    pipe = pipe_of(loaded)
    own = pipe.scheduler
    scheduler = install(loaded, profile("ve"))
    scheduler.set_timesteps(70)
    usual = scheduler.noise.sigmas(70)
    assert scheduler.sigmas.tolist() == pytest.approx(usual)
    assert scheduler.message.startswith("profile: 70 steps")
    scheduler.set_timesteps(300)
    assert scheduler.message.startswith("uncalibrated: the profile does not serve this run (The")
    assert "DPM++ 2M runs without it" in scheduler.message and len(scheduler.timesteps) == 300
    scheduler.set_timesteps(4)
    assert scheduler.message.startswith("profile: 4 steps, on its own")
    pipe.scheduler = own


@pytest.mark.parametrize("loaded", ["sd"], indirect=True)
def test_a_profile_file_and_its_cfg(loaded: Loaded, tmp_path: Path) -> None:
    replace(profile("ve"), cfg=7.0).save(tmp_path / "tiny.dode-profile")
    scheduler = install(loaded, tmp_path / "tiny.dode-profile", cfg=2.5)
    scheduler.set_timesteps(5)
    assert "made at cfg 7, this run is 2.5" in scheduler.message
    want = profile("ve").table(5)
    assert scheduler.sigmas.tolist() == pytest.approx(want.sigmas.tolist())


# What is refused


@pytest.mark.parametrize("loaded", ["sd", "sd3"], indirect=True)
def test_a_table_of_the_other_kind(loaded: Loaded) -> None:
    other = "sd" if loaded.parametrization == "flow" else "sd3"
    with pytest.raises(dode.DodeError, match="flow model; use a table that was made for it"):
        install(loaded, a_table(other, "ddim"))
    with pytest.raises(dode.DodeError, match="flow model; use a profile that was made for it"):
        install(loaded, profile("ve" if loaded.parametrization == "flow" else "flow"))


@pytest.mark.parametrize("loaded", ["sd"], indirect=True)
def test_a_profile_of_a_model_with_more_noise(loaded: Loaded) -> None:
    """Calibrated from sigma 80, where this pipeline's model ends at 14.6."""
    model = mixture("ve", (4, 4, 4), components=4, std=0.6)
    wide = dode.calibrate(model, randn(8, 4, 4, 4, seed=1) * 80.0, 80.0, 0.03)
    with pytest.raises(dode.DodeError, match="goes up to sigma 80, but the pipeline's model to 1"):
        install(loaded, wide)


@pytest.mark.parametrize("loaded", ["sd"], indirect=True)
def test_solvers_that_evaluate_twice(loaded: Loaded) -> None:
    rows = torch.zeros(7, 1, dtype=torch.float64)
    sigmas = a_table("sd", "ddim").sigmas
    with pytest.raises(dode.DodeError, match="D-EDM evaluates the model more than once a step"):
        install(loaded, dode.LambdaTable("heun", sigmas, rows, "ve"))
    with pytest.raises(dode.DodeError, match="No table is given"):
        install(loaded, [])
    with pytest.raises(dode.DodeError, match="num_inference_steps is 0"):
        install(loaded, a_table("sd", "ddim")).set_timesteps(0)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "diffusers":
            raise ImportError(name)
        return real(name, *args, **options)

    from dode_core.offline import pipeline_noise

    def no_module(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(pipeline_noise, "import_module", no_module)
    with pytest.raises(dode.DodeError, match="diffusers is not installed; run: pip install"):
        dode.DodeScheduler.from_table(a_table("sd", "ddim"), object())
    monkeypatch.undo()
    with pytest.raises(dode.DodeError, match="pass pipe.scheduler"):
        dode.DodeScheduler.from_table(a_table("sd", "ddim"), object())
