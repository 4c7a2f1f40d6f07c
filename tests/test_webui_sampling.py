"""Sampling in every host: the numbers, the choice of a table, and what the infotext says."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tables import made_up
from webui_host import CFGDenoiser, Host, InterruptedException

import dode_core as dode
from dode_core.tables.identity import file_fingerprint
from dode_webui import accordion, options
from dode_webui.options import Options


def sampler(host: Host) -> str:
    """The entry that runs Karras."""
    return "D-ODE Karras" if host.kind == "classic" else "D-ODE"


def grid(host: Host, steps: int = 6) -> Any:
    """The sigmas of a run."""
    return host.txt2img(steps, sampler(host)).sigmas.tolist()


def keep(host: Host, *tables: dode.LambdaTable) -> None:
    """Put tables beside the checkpoint."""
    dode.save_tables(host.sidecar, tables)


def mark(host: Host) -> str:
    return f"file:{file_fingerprint(host.checkpoint)}"


def model(host: Host, cfg: float = 7.0) -> Any:
    """The guided denoiser without a host around it."""

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        one, base = host.denoise(x, sigma, "a fox"), host.denoise(x, sigma, "")
        return base + (one - base) * cfg

    return denoiser


def test_without_a_table_it_is_k_diffusions_dpmpp_2m(
    webui: Host, k_diffusion_sampling: ModuleType
) -> None:
    p = webui.txt2img(7, sampler(webui), seed=3)
    peer = k_diffusion_sampling.sample_dpmpp_2m(model(webui), p.start, p.sigmas, disable=True)
    torch.testing.assert_close(p.latent, peer, rtol=1e-4, atol=1e-5)
    params = p.extra_generation_params
    assert params["D-ODE table"] == "none" and params["D-ODE match"] == "uncalibrated"
    assert params["D-ODE solver"] == "DPM++ 2M"
    assert "no table" in p.comments[0] and "7 steps" in p.comments[0]


def test_a_table_at_scale_0_is_k_diffusions_euler(
    webui: Host, k_diffusion_sampling: ModuleType
) -> None:
    keep(webui, made_up("ddim", grid(webui), model_fingerprint=mark(webui), cfg=7.0))
    p = webui.txt2img(6, sampler(webui), dode_options=Options(scale=0.0))
    peer = k_diffusion_sampling.sample_euler(model(webui), p.start, p.sigmas, disable=True)
    torch.testing.assert_close(p.latent, peer, rtol=1e-4, atol=1e-5)
    assert p.extra_generation_params["D-ODE scale"] == "0"


def test_adams_bashforth_lambdas_are_k_diffusions_lms(
    webui: Host, k_diffusion_sampling: ModuleType
) -> None:
    """The table itself reaches the numbers: h_k / (2 h_{k-1}) makes a second-order LMS."""
    sigmas = grid(webui)
    h = [b - a for a, b in zip(sigmas, sigmas[1:], strict=False)]
    rows = [[0.0], *([h[k] / (2 * h[k - 1])] for k in range(1, len(h)))]
    keep(webui, dode.LambdaTable("ddim", torch.tensor(sigmas), torch.tensor(rows)))
    p = webui.txt2img(6, sampler(webui))
    peer = k_diffusion_sampling.sample_lms(model(webui), p.start, p.sigmas, disable=True, order=2)
    torch.testing.assert_close(p.latent, peer, rtol=1e-3, atol=1e-4)
    assert p.extra_generation_params["D-ODE match"] == "exact"


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5])
def test_exactly_what_the_core_makes_of_the_table(webui: Host, scale: float) -> None:
    table = made_up("ipndm", grid(webui), model_fingerprint=mark(webui), cfg=7.0)
    keep(webui, table)
    p = webui.txt2img(6, sampler(webui), dode_options=Options(scale=scale))
    scaled = dode.LambdaTable("ipndm", table.sigmas, table.lambdas * scale)
    own = dode.sample(model(webui), p.start, p.sigmas, disable=True, table=scaled)
    torch.testing.assert_close(p.latent, own, rtol=1e-4, atol=1e-4)
    assert p.callbacks == list(range(6))


def test_infotext_of_an_exact_table(webui: Host) -> None:
    table = made_up("deis", grid(webui), model_fingerprint=mark(webui), cfg=7.0)
    keep(webui, table)
    p = webui.txt2img(6, sampler(webui))
    known = {k: v for k, v in p.extra_generation_params.items() if k.startswith("D-ODE")}
    assert known == {
        "D-ODE table": f"model.dode.json {options.table_id(table)}",
        "D-ODE solver": "D-DEIS",
        "D-ODE match": "exact",
    }
    assert all(isinstance(value, str) for value in known.values()), "lists mean one per image"
    assert not p.comments


def test_the_hires_pass_has_its_own_range_cfg_and_infotext(webui: Host) -> None:
    main = grid(webui)
    hr_cfg = {"hr_cfg": 3.0} if webui.kind in ("forge", "reforge") else {}
    settings: dict[str, Any] = {"enable_hr": True, "denoising_strength": 0.5, **hr_cfg}
    part = webui.txt2img(6, sampler(webui), **settings).sigmas.tolist()
    assert part[0] < main[0]
    own_cfg = 3.0 if hr_cfg else 7.0
    tables = [
        made_up("ddim", main, model_fingerprint=mark(webui), cfg=7.0),
        made_up("ipndm", part, model_fingerprint=mark(webui), cfg=own_cfg, draw=1),
        made_up("deis", part, model_fingerprint=mark(webui), cfg=11.0, draw=2, error=0.1),
    ]
    keep(webui, *tables)
    webui.log.clear()
    p = webui.txt2img(6, sampler(webui), **settings)
    params = p.extra_generation_params
    assert params["D-ODE solver"] == "D-DDIM" and params["D-ODE match"] == "exact"
    assert params["D-ODE hires solver"] == "D-PNDM", "the nearest cfg decides"
    assert params["D-ODE hires match"] == "exact"
    assert params["D-ODE hires table"].endswith(options.table_id(tables[1]))
    assert [call["cfg"] for call in webui.log] == [7.0] * 6 + [own_cfg] * 6


def test_image_to_image_takes_a_slice(webui: Host) -> None:
    keep(webui, made_up("ddim", grid(webui, 8), model_fingerprint=mark(webui)))
    latent = torch.zeros(1, 4, 8, 8)
    p = webui.txt2img(8, sampler(webui), init_latent=latent, denoising_strength=0.5)
    assert len(p.sigmas) == 5
    assert p.extra_generation_params["D-ODE match"] == "slice"
    assert p.callbacks == [0, 1, 2, 3] and p.latent.isfinite().all()


def test_other_step_counts_interpolate(webui: Host) -> None:
    keep(webui, made_up("ddim", grid(webui, 8), model_fingerprint=mark(webui)))
    p = webui.txt2img(7, sampler(webui))
    assert p.extra_generation_params["D-ODE match"] == "interpolated"


def test_a_schedule_with_another_step_count_than_the_slider(webui: Host) -> None:
    """The DDIM schedule makes 7 steps of 6: the sigmas count."""
    if webui.kind != "forge":
        return
    p = webui.txt2img(6, scheduler="DDIM")
    assert len(p.sigmas) == 8 and p.callbacks == list(range(7))
    p = webui.txt2img(6, scheduler="KL Optimal")
    assert p.sigmas[-1] > 0 and p.latent.isfinite().all()


def test_steps_are_counted_once_where_a_step_costs_two_evaluations(webui: Host) -> None:
    """Prompts that change by step would run ahead."""
    keep(webui, made_up("heun", grid(webui, 4), model_fingerprint=mark(webui)))
    webui.log.clear()
    p = webui.txt2img(4, sampler(webui))
    assert p.extra_generation_params["D-ODE solver"] == "D-EDM"
    assert [call["step"] for call in webui.log] == [0, 0, 1, 1, 2, 2, 3]
    assert p.callbacks == [0, 1, 2, 3]


def test_learned_sigmas_and_their_scale(webui: Host) -> None:
    own = grid(webui)
    moved = [own[0], *(sigma * 0.8 for sigma in own[1:-1]), 0.0]
    table = made_up("ddim", moved, columns=2, gain=True, learned_sigmas=True)
    keep(webui, table)
    p = webui.txt2img(6, sampler(webui))
    expected = dode.sample(model(webui), p.start, own, disable=True, table=table)
    torch.testing.assert_close(p.latent, expected, rtol=1e-4, atol=1e-3)
    p = webui.txt2img(6, sampler(webui), dode_options=Options(scale=0.0))
    plain = dode.sample(model(webui), p.start, own, disable=True, solver="ddim")
    torch.testing.assert_close(p.latent, plain, rtol=1e-4, atol=1e-4)


def test_a_table_of_choice(webui: Host) -> None:
    good = made_up("ddim", grid(webui), error=0.1)
    other = made_up("deis", grid(webui), draw=1, error=0.9)
    keep(webui, good, other)
    for chosen in (options.table_id(other), *[m for m in options.menu() if "DEIS" in m]):
        p = webui.txt2img(6, sampler(webui), dode_options=Options(chosen))
        assert p.extra_generation_params["D-ODE solver"] == "D-DEIS"
        assert p.extra_generation_params["D-ODE choice"] == options.table_id(other)
    p = webui.txt2img(6, sampler(webui), dode_options=Options("None"))
    assert p.extra_generation_params["D-ODE match"] == "uncalibrated"
    assert p.extra_generation_params["D-ODE choice"] == "None"
    p = webui.txt2img(6, sampler(webui))
    assert p.extra_generation_params["D-ODE solver"] == "D-DDIM"


@pytest.mark.parametrize("table", ["12345678", "no [deadbeef]", "../../etc/passwd", "💥"])
def test_a_chosen_table_that_is_not_there(webui: Host, table: str) -> None:
    """An error where it is seen, over HTTP too; never another table in its place."""
    keep(webui, made_up("ddim", grid(webui)))
    p = webui.txt2img(6, sampler(webui), dode_options=Options(table))
    params = p.extra_generation_params
    assert params["D-ODE table"] == "none" and params["D-ODE match"] == "uncalibrated"
    assert "is not among the table files" in params["D-ODE error"]
    assert "D-ODE note" not in params and "is not among the table files" in p.comments[0]
    plain = webui.txt2img(6, sampler(webui), dode_options=Options("None"))
    assert p.latent.equal(plain.latent) and "D-ODE error" not in plain.extra_generation_params


def test_a_request_for_a_table_that_is_not_there_fails(webui: Host) -> None:
    """Over HTTP a request that cannot be met is an error, as one for a script of no known name."""
    from fastapi import HTTPException

    keep(webui, made_up("ddim", grid(webui)))
    asked = [
        (("12345678", 1.0), "Table '12345678' is not among the table files"),
        ((f"{options.INSTEAD}a 12345678", 1.0), "Table 'a 12345678' is not among the table files"),
        ((7, 1.0), "the table is '7', not a text"),
        (("Automatic", "much"), "the lambda scale is much"),
    ]
    for args, said in asked:
        chosen, _ = options.read(*args)
        with pytest.raises(HTTPException) as failed:
            webui.txt2img(6, sampler(webui), dode_options=chosen, is_api=True)
        assert failed.value.status_code == 422 and said in failed.value.detail
    plain = webui.txt2img(6, sampler(webui), is_api=True)
    assert plain.extra_generation_params["D-ODE match"] == "exact"
    none = webui.txt2img(6, sampler(webui), dode_options=Options("None"), is_api=True)
    assert none.extra_generation_params["D-ODE match"] == "uncalibrated"


def test_a_pasted_table_that_is_not_there_kills_no_picture(webui: Host) -> None:
    """In the browser the best table there is is used instead, and both are named."""
    table = made_up("ddim", grid(webui))
    keep(webui, table)
    chosen, problem = options.read(f"{options.INSTEAD}old 0badc0de", 1.0)
    p = webui.txt2img(6, sampler(webui), dode_options=chosen)
    params = p.extra_generation_params
    assert not problem and params["D-ODE match"] == "exact"
    assert params["D-ODE table"].endswith(options.table_id(table)) and "D-ODE choice" not in params
    said = "Table 'old 0badc0de' is not among the table files here: Automatic was used instead."
    assert params["D-ODE error"] == said and said in p.comments[0]
    assert p.latent.equal(webui.txt2img(6, sampler(webui)).latent)


def test_a_chosen_table_that_cannot_serve(webui: Host) -> None:
    short = made_up("ddim", grid(webui, 4), model_fingerprint=mark(webui))
    keep(webui, short)
    p = webui.txt2img(20, sampler(webui), dode_options=Options(options.table_id(short)))
    assert p.extra_generation_params["D-ODE match"] == "uncalibrated"
    assert "cannot serve this run" in p.comments[0]
    assert "cannot serve this run" in p.extra_generation_params["D-ODE note"]


def test_a_solver_of_choice(webui: Host) -> None:
    webui.shared.opts.data["dode_more_samplers"] = True
    from dode_webui import samplers

    samplers.register()
    keep(webui, made_up("ddim", grid(webui), error=0.01), made_up("heun", grid(webui), error=0.9))
    karras = " Karras" if webui.kind == "classic" else ""
    p = webui.txt2img(6, f"D-EDM{karras}")
    assert p.extra_generation_params["D-ODE solver"] == "D-EDM"
    p = webui.txt2img(6, f"D-DEIS{karras}")
    assert p.extra_generation_params["D-ODE solver"] == "DEIS", "plain, as it has no table"


def test_garbage_beside_the_checkpoint(webui: Host, caplog: pytest.LogCaptureFixture) -> None:
    webui.sidecar.write_text("{garbage")
    webui.txt2img(6, sampler(webui))  # (Forge knows its checkpoint after the first run only)
    p = webui.txt2img(6, sampler(webui))
    assert p.extra_generation_params["D-ODE match"] == "uncalibrated"
    assert "not valid JSON" in caplog.text and webui.sidecar.read_text() == "{garbage"


def test_tables_of_the_fallback_folder_and_another_checkpoint(webui: Host) -> None:
    sigmas = grid(webui)
    file = webui.folder / "dode" / "renamed-1.dode.json"
    dode.save_tables(file, [made_up("deis", sigmas, model_fingerprint=mark(webui))])
    p = webui.txt2img(6, sampler(webui))
    assert p.extra_generation_params["D-ODE table"].startswith("renamed-1.dode.json ")
    file.unlink()
    keep(webui, made_up("ddim", sigmas, model_fingerprint="file:0000000000000000"))
    p = webui.txt2img(6, sampler(webui))
    assert p.extra_generation_params["D-ODE solver"] == "D-DDIM"
    assert "made for another checkpoint" in p.comments[0]


def test_loras_in_the_prompt(webui: Host) -> None:
    from dode_webui import host

    assert host.lora_mark("a fox") == ""
    one = host.lora_mark("a <lora:ink:0.5> fox <lora:b:1:0.2>")
    assert one == host.lora_mark("<lora:b:1:0.2><lora:ink:0.5>")
    assert one != host.lora_mark("<lora:ink:0.6><lora:b:1:0.2>")
    keep(webui, made_up("ddim", grid(webui), model_fingerprint=f"{mark(webui)} patches:{one}"))
    p = webui.txt2img(6, sampler(webui))
    assert "made with LoRAs" in p.comments[0]
    assert "exact table: D-DDIM, 6 steps" in p.extra_generation_params["D-ODE note"]
    assert "closer" not in p.extra_generation_params["D-ODE note"], "measured with the LoRAs"


def test_a_table_of_another_cfg_is_named_in_the_image(webui: Host) -> None:
    """The accordion says it before the run; between tables of two cfgs there is nothing to say."""
    low = made_up("ddim", grid(webui), model_fingerprint=mark(webui), cfg=5.0)
    keep(webui, low)
    for asked in (Options(), Options(options.table_id(low))):
        params = webui.txt2img(6, sampler(webui), dode_options=asked).extra_generation_params
        assert params["D-ODE match"] == "exact"
        assert "made at cfg 5, this run uses 7" in params["D-ODE note"]
    keep(webui, low, made_up("ddim", grid(webui), model_fingerprint=mark(webui), cfg=9.0))
    params = webui.txt2img(6, sampler(webui)).extra_generation_params
    assert params["D-ODE match"] == "exact between cfgs" and "D-ODE note" not in params


def test_where_guidance_is_left_out_is_part_of_the_model(webui: Host) -> None:
    """NGMS and Skip Early: a table of full guidance is named as that, one of the same serves."""
    from dode_webui import host

    plain = made_up("ddim", grid(webui), model_fingerprint=mark(webui), cfg=7.0)
    keep(webui, plain)
    assert "D-ODE note" not in webui.txt2img(6, sampler(webui)).extra_generation_params
    webui.shared.opts.data |= {"s_min_uncond": 4.0, "s_min_uncond_all": True}
    said = webui.txt2img(6, sampler(webui)).extra_generation_params["D-ODE note"]
    assert "made with guidance at every step, this run has NGMS 4, all steps" in said
    own = f"{mark(webui)} unguided:NGMS=4+all_steps"
    assert host.identity().fingerprint == own and not host.unguided_by_step()
    keep(webui, plain, made_up("ddim", grid(webui), model_fingerprint=own, cfg=7.0, seed=5))
    assert "D-ODE note" not in webui.txt2img(6, sampler(webui)).extra_generation_params
    webui.shared.opts.data |= {"s_min_uncond": 0.0, "skip_early_cond": 0.25}
    said = webui.txt2img(6, sampler(webui)).extra_generation_params["D-ODE note"]
    assert "this run has Skip Early CFG 0.25" in said and host.unguided_by_step()


def test_ngms_of_one_run(webui: Host) -> None:
    """As the X/Y/Z plot sets it: the run's own value, not the setting's."""
    from dode_webui import host

    webui.shared.opts.data |= {"s_min_uncond": 4.0}
    assert host.unguided_mark(SimpleNamespace(s_min_uncond=None)) == "NGMS=4"
    assert host.unguided_mark(SimpleNamespace(s_min_uncond=1.5)) == "NGMS=1.5"
    assert host.unguided_mark(SimpleNamespace(s_min_uncond=0.0)) == ""
    assert host.unguided_by_step(), "every other step, unless at all steps"


def test_interrupt_keeps_the_infotext(webui: Host) -> None:
    keep(webui, made_up("ddim", grid(webui), model_fingerprint=mark(webui)))
    calls = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 3:
            webui.shared.state.interrupt()

    webui.fail = interrupt
    p = webui.txt2img(6, sampler(webui))
    assert len(calls) == 3 and p.extra_generation_params["D-ODE match"] == "exact"
    assert torch.equal(p.latent, p.start), "the host's own last latent"
    assert issubclass(InterruptedException, BaseException)


class ZImage:
    """An engine that takes a shift, named as Neo's is."""

    use_shift = True

    def __init__(self, loaded: Any) -> None:
        self.sd_checkpoint_info = loaded.sd_checkpoint_info


@pytest.mark.parametrize("flag", ["use_shift", "use_distilled_cfg_scale"])
def test_shift_and_distilled_cfg_are_part_of_the_model(
    webui: Host, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table made at one value is used at another with a note; the hires pass has its own."""
    from dode_webui import host

    if webui.kind not in ("forge", "reforge"):
        return  # the others know neither
    sigmas = grid(webui)
    name = flag.removeprefix("use_").removesuffix("_scale")
    keep(webui, made_up("ddim", sigmas, model_fingerprint=f"{mark(webui)} {name}:9", cfg=7.0))
    monkeypatch.setattr(webui.sd_models.model_data.sd_model, flag, True, raising=False)
    same = webui.txt2img(6, sampler(webui), distilled_cfg_scale=9.0)
    assert same.extra_generation_params["D-ODE match"] == "exact"
    assert "D-ODE note" not in same.extra_generation_params
    other = webui.txt2img(6, sampler(webui), distilled_cfg_scale=3.5)
    words = name.replace("_", " ")
    assert f"made with {words} 9, this run has 3.5" in other.extra_generation_params["D-ODE note"]
    assert other.comments and any(f"{words} 9" in line for line in options.menu())
    monkeypatch.setattr(webui.sd_models.model_data.sd_model, flag, False)
    assert not webui.txt2img(6, sampler(webui)).extra_generation_params.get("D-ODE shift")
    loaded = webui.sd_models.model_data.sd_model
    assert host.default_distilled_cfg() == 3.5
    monkeypatch.setattr(webui.sd_models.model_data, "sd_model", ZImage(loaded))
    assert host.default_distilled_cfg() == 9.0 and host.distilled_mark(9.0) == {"shift": "9"}


def test_checkpoints_in_several_folders(webui: Host, tmp_path: Path) -> None:
    """Neo's --ckpt-dirs is a list."""
    elsewhere = [tmp_path / "a" / "deep", tmp_path / "b"]
    for i, folder in enumerate(elsewhere):
        folder.mkdir(parents=True)
        table = made_up("ddim", grid(webui), draw=i, model_fingerprint=mark(webui), cfg=7.0)
        dode.save_tables(folder / "x.dode.json", [table])
    assert len(options.menu()) == 2
    webui.shared.cmd_opts.ckpt_dirs = [str(tmp_path / "a"), tmp_path / "b"]
    assert len(options.menu()) == 4
    assert webui.txt2img(6, sampler(webui)).extra_generation_params["D-ODE match"] == "exact"


def test_flow_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k_diffusion_sampling: ModuleType
) -> None:
    from webui_host import install

    from dode_webui import samplers

    host = install("forge", tmp_path, flow=True)
    try:
        samplers.register()
        p = host.txt2img(6)
        assert p.sigmas[0] == 1
        automatic = host.txt2img(6, scheduler="Automatic").sigmas  # the host's own, not Karras
        assert torch.equal(automatic, host.txt2img(6, scheduler="Normal").sigmas)
        assert not torch.equal(automatic, p.sigmas)
        own = dode.sample(
            model(host), p.start, p.sigmas, disable=True, solver="dpmpp_2m", parametrization="flow"
        )
        torch.testing.assert_close(p.latent, own, rtol=1e-4, atol=1e-4)
        ve = made_up("ddim", p.sigmas, model_fingerprint=mark(host))
        keep(host, ve)
        assert host.txt2img(6).extra_generation_params["D-ODE match"] == "uncalibrated"
    finally:
        host.remove()


def test_a_denoiser_without_a_host_behind_it(webui: Host) -> None:
    """Other extensions call samplers with what they have."""
    from dode_webui.sampling import sample_dode

    bare = CFGDenoiser(webui, None)
    x = torch.randn(1, 4, 8, 8) * 10

    def forward(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        return webui.denoise(x, sigma, "")

    bare.__class__ = type(
        "Bare", (CFGDenoiser,), {"__call__": lambda self, *a, **k: forward(*a, **k)}
    )
    out = sample_dode(bare, x, torch.tensor([10.0, 3.0, 1.0, 0.0]), None, disable=True)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("table", "scale", "said"),
    [
        (None, 1, "the table is"),
        ({"a": 1}, 1, "the table is"),
        ("", 1, "the table is"),
        ("x" * 2000, 1, "the table is"),
        ("Automatic", "1", "the lambda scale is 1"),
        ("Automatic", float("nan"), "the lambda scale is nan"),
        ("Automatic", -0.1, "the lambda scale"),
        ("Automatic", 1e9, "the lambda scale"),
        ("Automatic", True, "the lambda scale"),
    ],
)
def test_options_from_the_api(
    webui: Host, table: Any, scale: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    p = webui.txt2img(2, sampler(webui))
    accordion.apply(p, table, scale, "more than we know")
    chosen = options.of_run(p)
    assert chosen == Options(problem=chosen.problem) and said in p.comments[-1]
    assert caplog.records[-1].levelno == logging.WARNING
    accordion.apply(p)
    assert options.of_run(p) == Options()


def test_a_grid_cell_comes_first(webui: Host) -> None:
    p = webui.txt2img(2, sampler(webui))
    accordion.apply(p, "None", 0.5)
    p.dode_grid = {"scale": 1.5}
    assert options.of_run(p) == Options("None", 1.5)
