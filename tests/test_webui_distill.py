"""A distillation from request to file in every host, and everything that can stop it."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from webui_host import HOSTS, Host, a_profile, guided, install, run_main_thread

import dode_core as dode
from dode_core.calibration import check_samples
from dode_core.errors import CalibrationError
from dode_core.fit import few_step
from dode_core.fit.steady import EVALUATIONS
from dode_core.refining import OTHER_NOISE
from dode_core.shelf import save_profile, stamped_profile
from dode_core.tables.library import tables_in
from dode_webui import calibration, cost, distill, host, job, samplers
from dode_webui.calibration import HiddenSampler
from dode_webui.request import Request, RequestError

SMALL = {"samples": 4, "width": 64, "height": 64, "learn_sigmas": False, "cfg": 2.0}


def request(**changes: Any) -> Request:
    settings: dict[str, Any] = {"solver": "ddim", "steps": (4,), "scheduler": "Karras", **SMALL}
    return Request(**{**settings, **changes})


def finished(wanted: Request, pictures: bool = False) -> job.Job:
    """A whole distillation."""
    running = distill.begin(wanted, pictures)
    assert running.ended.wait(120)
    return running


def is_free(host: Host) -> None:
    """Nothing of a distillation is left behind, and the host still makes images."""
    state = host.shared.state
    assert state.job == "" and not state.interrupted and not state.skipped
    assert samplers.HIDDEN not in host.sd_samplers.all_samplers_map
    assert host.call_queue.queue_lock.acquire(timeout=5)
    host.call_queue.queue_lock.release()
    assert not getattr(host.shared.cmd_opts, "no_prompt_history", False)
    host.fail = lambda: None
    name = "D-ODE Karras" if host.kind == "classic" else "D-ODE"
    assert host.txt2img(4, name).latent.isfinite().all()


def test_a_table_is_made_for_where_guidance_is_left_out(webui: Host) -> None:
    """It is recorded; where the step number decides, the result says what it is good for."""
    webui.shared.opts.data |= {"s_min_uncond": 2.0, "s_min_uncond_all": True}
    every = finished(request())
    assert every.state == job.DONE and "number of the step" not in every.result.note
    webui.shared.opts.data |= {"s_min_uncond_all": False}
    other = finished(request())
    assert other.state == job.DONE and "number of the step" in other.result.note
    marks = [table.model_fingerprint.split()[-1] for table in tables_in(webui.sidecar)]
    assert sorted(marks) == ["unguided:NGMS=2", "unguided:NGMS=2+all_steps"]


def test_a_table_beside_the_checkpoint(webui: Host) -> None:
    running = finished(request())
    assert running.state == job.DONE, running.error
    outcome = running.result
    (table,) = tables_in(webui.sidecar)
    assert table.steps == 4 and table.cfg == 2.0 and table.solver == "ddim"
    assert table.model_name == "model.safetensors"
    assert table.model_fingerprint.startswith("file:") and table.seed == 0
    assert outcome.file == webui.sidecar and outcome.shown == "checkpoints/model.dode.json"
    assert table.errors and table.errors.distilled_fit < table.errors.plain_fit
    assert webui.shared.state.jobs[-1] == "D-ODE distill"
    is_free(webui)
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    p = webui.txt2img(4, name, cfg_scale=2.0)
    assert p.extra_generation_params["D-ODE match"] == "exact" and not p.comments


def test_once_for_any_number_of_steps(webui: Host) -> None:
    """One profile serves step counts that nobody named, the hires pass and image to image."""
    if webui.kind in ("reforge", "classic"):  # the same code, and a long calibration
        return
    running = finished(request(once=True, samples=8, steps=(4,)))
    assert running.state == job.DONE, running.error
    outcome = running.result
    assert outcome.file.name.startswith("model.cfg2-") and outcome.file.suffix == ".dode-profile"
    assert [table.steps for table in outcome.tables] == [4]
    profile = dode.Profile.load(outcome.file)
    assert profile.cfg == 2.0 and profile.model_name == "model.safetensors"
    assert profile.evaluations <= 64
    is_free(webui)
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    p = webui.txt2img(7, name, cfg_scale=2.0)
    params = p.extra_generation_params
    assert params["D-ODE match"] == "profile" and not p.comments
    assert params["D-ODE table"] == f"{outcome.file.name} profile"
    table = profile.table(7, float(p.sigmas[0]))
    ours = dode.sample(guided(webui, 2.0), p.start, table.sigmas, table=table, disable=True)
    torch.testing.assert_close(p.latent, ours, rtol=1e-4, atol=1e-4)
    other = webui.txt2img(7, name, cfg_scale=3.0)
    assert "made at cfg 2, this run uses 3" in other.comments[0]


def test_too_few_samples_for_any_steps_are_refused_before_any_call(webui: Host) -> None:
    """In the words of the core; as many are enough for a table."""
    with pytest.raises(CalibrationError) as core:
        check_samples(4)
    with pytest.raises(RequestError) as ours:
        request(once=True, samples=4)
    assert str(ours.value) == str(core.value) and not webui.log
    assert request(samples=4).samples == 4


def test_it_is_the_cores_fit_of_the_hosts_guided_denoiser(webui: Host) -> None:
    """Same noise, same denoiser, no host: the same lambdas."""
    finished(request())
    (table,) = tables_in(webui.sidecar)

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        one, base = webui.denoise(x, sigma, ""), webui.denoise(x, sigma, "")
        return base + (one - base) * 2.0

    noise = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    )
    sigmas = table.sigmas
    (own,) = dode.distill_many(denoiser, noise * sigmas[0], [sigmas.tolist()], ["ddim"])
    torch.testing.assert_close(table.lambdas, own.lambdas, rtol=1e-4, atol=1e-5)


def test_the_best_for_some_steps_goes_on_from_the_profile(
    webui: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half the cost, which is announced, on other noise; and only where it is of this cfg, and
    its lambdas are of the solver that is asked for.
    """
    seeds: list[int | None] = []
    noise = HiddenSampler.noise

    def seen(self: Any, x: Any, scale: float, seed: int | None = None) -> Any:
        seeds.append(seed)
        return noise(self, x, scale, seed)

    monkeypatch.setattr(HiddenSampler, "noise", seen)
    how = {"solver": "ddim", "learn_sigmas": True, "samples": 8, "steps": (4,), "seed": 3}
    whole = cost.evaluations(request(**how))
    assert finished(request(once=True, samples=8, steps=(4,))).state == job.DONE
    announced = cost.evaluations(request(**how))
    assert announced == whole - 8 * 150
    assert cost.evaluations(request(**how, cfg=9.0)) == whole
    running = finished(request(**how))
    assert running.state == job.DONE, running.error
    (table,) = running.result.tables
    assert table.learned_sigmas and 40 < table.evaluations <= 150
    look = EVALUATIONS + few_step.evaluations(4, 8)  # at the model, before the work
    assert running.clock.total + look <= announced
    assert seeds[-1] == 3 + OTHER_NOISE
    (other,) = finished(request(**how, cfg=9.0)).result.tables
    assert 150 < other.evaluations <= 300 and seeds[-1] == 3


@pytest.mark.parametrize("solver", ["ddim", "deis"])
def test_other_noise_only_where_it_goes_on_from_the_profiles_lambdas(
    webui: Host, monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    """For another solver the sigmas of the profile's table are tried, no more: at the full cost."""
    webui.txt2img(4, "D-ODE Karras" if webui.kind == "classic" else "D-ODE")  # loads the model
    wanted = request(solver=solver, learn_sigmas=True, samples=8, seed=3)
    whole = cost.evaluations(wanted)
    profile = stamped_profile(a_profile(), host.identity(upcoming=True), 2.0, 0)
    profile = replace(profile, latent_shape=(4, 8, 8))
    save_profile(host.library(), profile, host.identity(upcoming=True))
    goes_on = solver == "ddim"
    assert whole - cost.evaluations(wanted) == (8 * 150 if goes_on else 0)
    seeds: list[int] = []

    def noise(self: Any, x: Any, scale: float, seed: int | None = None) -> Any:
        if seed is None:  # the look at the model, before the work
            return drawn(self, x, scale)
        seeds.append(seed)
        raise CalibrationError("Enough was seen.")

    drawn = HiddenSampler.noise
    monkeypatch.setattr(HiddenSampler, "noise", noise)
    assert finished(wanted).state == job.FAILED
    assert seeds == [3 + OTHER_NOISE if goes_on else 3]


def test_the_same_table_in_every_host(tmp_path: Path) -> None:
    tables = []
    for kind in HOSTS:
        host = install(kind, tmp_path / kind)
        try:
            run_main_thread(host)
            samplers.register()
            assert finished(request(prompts=("a fox", "two hens"))).state == job.DONE
            tables += tables_in(host.sidecar)
        finally:
            host.remove()
    for table in tables[1:]:
        torch.testing.assert_close(table.lambdas, tables[0].lambdas, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(table.sigmas, tables[0].sigmas)


def test_the_report_compares_with_what_one_would_have_run(webui: Host) -> None:
    """With the better of DPM++ 2M and Euler."""
    running = finished(request(samples=8, steps=(5,)))
    (table,) = running.result.tables
    assert set(table.peer_errors) == {"dpmpp_2m", "euler"}
    line = running.result.summary()[0]
    assert re.search(r"\d+% closer to the many-step image than (DPM\+\+ 2M|Euler)", line)


class Cache:
    """As TeaCache: while little changes, the last change is used again."""

    def __init__(self, denoise: Any) -> None:
        self.denoise, self.before = denoise, None

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, prompt: str) -> torch.Tensor:
        if prompt and self.before is not None:
            seen, found = self.before
            if seen.shape == x.shape and float((x - seen).norm()) < 0.2 * float(seen.norm()):
                return x + found - seen
        found = self.denoise(x, sigma, prompt)
        if prompt:
            self.before = x, found
        return found


def test_a_step_cache_is_refused(webui: Host) -> None:
    webui.denoise = Cache(webui.denoise)
    for once in (False, True):
        running = finished(request(once=once, samples=8, prompts=("a fox",)))
        assert running.state == job.FAILED
        assert "a step cache" in running.status() and "take it off" in running.status()
    assert not webui.sidecar.exists()
    webui.denoise = webui.denoise.denoise
    is_free(webui)


def jump(webui: Host) -> None:
    """Give it a model that answers with one image whatever it is asked."""
    goal = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    webui.denoise = lambda x, sigma, prompt: goal.expand_as(x).clone()


def test_a_model_that_is_few_step_already(webui: Host) -> None:
    jump(webui)
    running = finished(request(samples=8))
    assert running.state == job.DONE, running.error
    assert "already few-step; nothing to distil" in " ".join(running.result.summary())


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("jumps", [False, True])
def test_the_first_look_is_seen(
    webui: Host, monkeypatch: pytest.MonkeyPatch, batch_size: int, jumps: bool
) -> None:
    """It is long at many steps: the bar moves with every call, and to its end where all are made:
    a model that seems to be few-step is looked at twice.
    """
    if jumps:
        jump(webui)
    seen: list[tuple[int, int]] = []
    update = job.Clock.update

    def note(clock: job.Clock, done: int, total: int, part: str) -> None:
        update(clock, done, total, part)
        if part == "first look at the model":
            seen.append((done, total))
            assert webui.shared.state.sampling_steps == total

    monkeypatch.setattr(job.Clock, "update", note)
    assert finished(request(steps=(6,), batch_size=batch_size)).state == job.DONE
    assert [done for done, _ in seen] == list(range(len(seen)))
    first, again = 7 * 6 * 4 // batch_size, 8 * 6
    assert len(seen) == EVALUATIONS + first + jumps * again
    assert {total for _, total in seen} == {EVALUATIONS + first + again}, "at most"


def test_a_long_name_is_known_before_the_work(webui: Host) -> None:
    """Limits of file names are bytes: the table goes to the host's own folder at once."""
    from types import SimpleNamespace

    long = webui.checkpoint.with_name("\u00e9" * 124 + ".ckpt")
    long.write_bytes(webui.checkpoint.read_bytes())
    info = SimpleNamespace(filename=str(long), sha256=None, shorthash=None)
    for model in (webui.shared.sd_model, webui.sd_models.model_data.sd_model):
        model.sd_checkpoint_info = info
    running = finished(request())
    assert running.state == job.DONE, running.error
    assert running.result.file.parent == webui.folder / "dode" and not running.result.note
    assert tables_in(running.result.file)


def test_several_step_counts_and_the_best_solver(webui: Host) -> None:
    running = finished(request(solver="best", steps=(4, 5, 6)))
    assert running.state == job.DONE, running.error
    assert [table.steps for table in running.result.tables] == [4, 5, 6]
    assert all(len(table.stages) == table.steps for table in running.result.tables)
    assert len(tables_in(webui.sidecar)) == 3


def test_learned_sigmas(webui: Host) -> None:
    running = finished(request(learn_sigmas=True, samples=8, batch_size=8))
    assert running.state == job.DONE, running.error
    (table,) = running.result.tables
    assert table.columns == 2 and table.gain


def test_schedules_that_start_elsewhere_at_every_step_count(webui: Host) -> None:
    if webui.kind == "classic":
        return
    running = finished(request(scheduler="Simple", steps=(4, 6)))
    assert running.state == job.DONE, running.error
    starts = {float(table.sigmas[0]) for table in running.result.tables}
    assert len(starts) == 2


def test_prompts_take_turns_whatever_the_batch(webui: Host) -> None:
    prompts = ("one", "three", "seventeen")
    webui.log.clear()
    running = finished(request(prompts=prompts, samples=7, batch_size=2))
    assert running.state == job.DONE, running.error
    used = {tuple(call["prompts"]) for call in webui.log}
    turns = [prompts[i % 3] for i in range(7)]  # micro-batches are slices of this
    slices = {tuple(turns[i : i + n]) for i in range(7) for n in (1, 2)}
    assert used <= slices and {prompt for each in used for prompt in each} == set(prompts)
    assert max(map(len, used)) == 2
    assert {call["cfg"] for call in webui.log} == {2.0}
    assert {call["step"] for call in webui.log} == {0, 1, 2, 3}, "prompts change as in a run"


def test_pictures_without_with_and_converged(webui: Host) -> None:
    running = finished(request(), pictures=True)
    captions = [caption for _, caption in running.result.pictures]
    assert captions == ["4 steps, no table", "4 steps, D-DDIM", "40 steps, no table"]
    is_free(webui)


def test_the_host_is_kept_to_itself(webui: Host) -> None:
    """Nothing else starts while it runs, and it waits for what was there before."""
    webui.call_queue.queue_lock.acquire()
    running = distill.begin(request(), pictures=False)
    try:
        assert not running.ended.wait(0.2)
        assert running.state == job.WAITING and "waiting" in running.status()
        with pytest.raises(job.Busy, match="under way already"):
            distill.begin(request())
    finally:
        webui.call_queue.queue_lock.release()
    seen = []

    def look() -> None:
        seen.append(webui.call_queue.queue_lock.acquire(blocking=False))

    def from_outside() -> None:
        other = threading.Thread(target=look)
        other.start()
        other.join()

    webui.fail = from_outside
    assert running.ended.wait(120) and running.state == job.DONE
    assert seen and not any(seen)


def test_forges_own_thread_runs_it(webui: Host) -> None:
    finished(request())
    assert webui.tasks == (0 if webui.kind == "a1111" else 1)


def test_where_nobody_takes_tasks(webui: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done all the same, and once, also when somebody comes late."""
    from dode_webui import main_thread

    thread = webui.modules.get("modules_forge.main_thread")
    if thread is None:
        return
    thread.stop()
    assert thread.stopped.wait(60)
    monkeypatch.setattr(main_thread, "TASK_PATIENCE", 0.1)
    done: list[int] = []
    assert main_thread.on_main_thread(lambda: done.append(1) or 8) == 8 and webui.tasks == 0
    run_main_thread(webui)
    assert done == [1]


@pytest.mark.parametrize("how", ["cancel", "interrupt", "skip"])
def test_cancelled_within_one_model_call(webui: Host, how: str) -> None:
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 5:
            if how == "cancel":
                running.cancel()
            elif how == "interrupt":
                webui.shared.state.interrupt()
            else:
                webui.shared.state.skipped = True

    webui.fail = stop
    with webui.call_queue.queue_lock:
        running = distill.begin(request(), pictures=True)
    assert running.ended.wait(60)
    assert running.state == job.CANCELLED and len(calls) <= 6
    assert "nothing was written" in running.status()
    assert not webui.sidecar.exists()
    is_free(webui)
    assert finished(request()).state == job.DONE, "and it can be started again"


def test_cancelled_before_its_turn(webui: Host) -> None:
    webui.log.clear()
    with webui.call_queue.queue_lock:
        running = distill.begin(request())
        running.cancel()
    assert running.ended.wait(60) and running.state == job.CANCELLED
    assert not webui.log and not webui.sidecar.exists()


@pytest.mark.parametrize("error", [ValueError("broken"), BaseException("odd"), KeyError(3)])
def test_errors_come_back_and_leave_the_host_usable(webui: Host, error: BaseException) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        if len(calls) == EVALUATIONS + 4:  # an error in the first look is said otherwise
            raise error

    webui.fail = fail
    running = finished(request(), pictures=True)
    assert running.state == job.FAILED and running.error is error
    assert not webui.sidecar.exists()
    is_free(webui)


def test_a_model_that_gives_nan(webui: Host) -> None:
    healthy = webui.denoise
    webui.denoise = lambda x, sigma, prompt: x * float("nan")
    running = finished(request())
    assert running.state == job.FAILED and "not finite" in running.status()
    assert not webui.sidecar.exists()
    webui.denoise = healthy
    is_free(webui)


def test_memory_that_runs_out_halves_the_batch(webui: Host) -> None:
    webui.room = 1
    running = finished(request(batch_size=4))
    assert running.state == job.DONE, running.error
    assert {len(call["prompts"]) for call in webui.log[-4:]} == {1}
    (table,) = tables_in(webui.sidecar)
    webui.sidecar.unlink()
    finished(request(batch_size=1))
    (same,) = tables_in(webui.sidecar)
    torch.testing.assert_close(table.lambdas, same.lambdas, rtol=1e-6, atol=1e-9)


def test_memory_that_is_too_small_for_one(webui: Host) -> None:
    def full() -> None:
        raise RuntimeError("CUDA out of memory.")

    webui.fail = full
    running = finished(request())
    assert running.state == job.FAILED and "Memory ran out with one latent" in running.status()
    is_free(webui)


def test_a_file_that_is_no_table_file_is_refused_before_the_work(webui: Host) -> None:
    webui.sidecar.write_text("mine")
    webui.log.clear()
    running = finished(request())
    assert running.state == job.FAILED and "model.dode.json" in running.status()
    assert not webui.log and webui.sidecar.read_text() == "mine"


def test_a_folder_that_cannot_be_written(webui: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from dode_core.tables import files

    honest = files.write_atomically

    def refusing(path: Path, raw: bytes) -> None:
        if path.parent == webui.checkpoint.parent:
            raise dode.TableError("cannot be written") from PermissionError(13, "Permission denied")
        honest(path, raw)

    monkeypatch.setattr(files, "write_atomically", refusing)
    running = finished(request())
    outcome = running.result
    assert outcome.file.parent == webui.folder / "dode" and "Permission denied" in outcome.note
    assert outcome.shown.startswith("dode/model-")
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    p = webui.txt2img(4, name, cfg_scale=2.0)
    assert p.extra_generation_params["D-ODE match"] == "exact", "and it is found there"


def test_the_hosts_prompt_history_is_left_alone(webui: Host) -> None:
    webui.txt2img(2, "D-ODE")
    before = (webui.folder / "params.txt").read_text()
    finished(request(prompts=("something else",)), pictures=True)
    assert (webui.folder / "params.txt").read_text() == before


def test_tables_are_added_to_those_that_are_there(webui: Host) -> None:
    finished(request())
    finished(request(cfg=5.0))
    finished(request())
    assert [table.cfg for table in tables_in(webui.sidecar)] == [5.0, 2.0]


def test_the_noise_is_scaled_as_the_host_scales_it(webui: Host) -> None:
    assert calibration.start_scale(10.0, "ve") == 10.0
    webui.shared.opts.data["sgm_noise_multiplier"] = True
    assert calibration.start_scale(10.0, "ve") == pytest.approx(101**0.5)
    assert calibration.start_scale(1.0, "flow") == 1.0


def test_the_estimate_leaves_the_first_calls_out() -> None:
    now = [0.0]
    clock = job.Clock(now=lambda: now[0])
    assert clock.text() == "preparing"
    for done in range(1, 12):
        now[0] += 60.0 if done <= job.WARM_UP else 0.5  # loading, then half a second each
        clock.update(done, 111, "part 1 of 1")
        if done == 1:
            assert clock.left() is None and "measuring" in clock.text()
    assert clock.left() == pytest.approx(50.0)
    said = "part 1 of 1: 11 of at most 111 model calls, at most 50 s left in this part"
    assert clock.text() == said
    clock.update(1, 30, "part 2 of 2")
    assert clock.left() is None, "another part, other calls"
    assert [job.duration(s) for s in (0.1, 99, 100, 5000, 9000)] == [
        "1 s", "99 s", "2 min", "83 min", "2.5 h",
    ]  # fmt: skip
