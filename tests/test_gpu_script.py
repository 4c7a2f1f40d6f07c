"""``bench gpu`` as far as a CPU goes: every part with a tiny network, what it keeps and leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dode_core as dode
from benchmarks import gpu, gpu_parts
from benchmarks.common import load_results
from benchmarks.gpu_network import Counted, one_rank
from benchmarks.gpu_parts import PARTS, Bench, Found
from dode_core.fit import distributed


@pytest.fixture(scope="module")
def bench(comfy_sampling: ModuleType) -> Bench:
    """With a network of SDXL's kind, and ComfyUI's sampler beside ours."""
    pytest.importorskip("diffusers")
    bench = Bench("cpu", ends=float("inf"))
    bench.peer = comfy_sampling.sample_ipndm
    return bench


class Convolution(nn.Module):
    """In the place of a network that torch.compile would look at for long."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, **rest: Any) -> tuple[Tensor]:
        return (self.body(sample) * timestep.view(-1, 1, 1, 1).sin(),)


def test_no_value_of_a_real_network_is_read(bench: Bench) -> None:
    assert gpu_parts.synchronisations(bench) == {"synchronisations": 0, "checked on": "meta"}


def test_a_run_is_measured_beside_the_network_alone(bench: Bench) -> None:
    found = gpu_parts.sampling(bench)
    assert set(found) == {"network alone", "D-ipndm", "D-ddim", "ComfyUI ipndm"}
    assert found["network alone"]["ms_a_step_beside_the_network"] == 0
    assert all(one["seconds"] > 0 for one in found.values())


def test_a_table_and_its_evaluations(bench: Bench) -> None:
    """Teacher, plain run and fit, as on paper; more where a lambda is dropped and looked at."""
    found = gpu_parts.table(bench)
    steps, samples = bench.size.steps, bench.size.samples
    assert found["samples"] == samples and found["evaluations_a_sample"] >= 4 * steps - 1
    assert found["of_them_evaluations"] + found["left"] == pytest.approx(found["seconds"])


def test_one_process_makes_the_same_table(bench: Bench) -> None:
    found = gpu_parts.one_process(bench)
    assert found["backend"] == "gloo" and found["lambdas_apart_at_most"] == 0
    assert distributed.size() == 1


def test_a_compiled_network_is_compiled_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model, "network", Convolution().requires_grad_(False))
    found = gpu_parts.compiled(bench)
    assert found["graphs"] > 0 and found["graphs_made_by_sampling"] == 0
    assert isinstance(bench.model.network, Convolution)  # as it was


@pytest.mark.parametrize("late", [False, True])
def test_a_profile_of_fewer_samples_says_that_its_minutes_are_computed(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a calibration that only asks the model; the real one is run by the command."""
    asked = []

    def calibrate(model: Any, x: Tensor, *sigmas: float, budget: int, batch_size: int) -> None:
        asked.append(len(x))
        for _ in range(budget):
            model(x, torch.ones(len(x)))

    class Model:
        @staticmethod
        def noise(samples: int) -> Tensor:
            return torch.zeros(samples, 1)

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x

    monkeypatch.setattr(dode, "calibrate", calibrate)
    size = gpu_parts.Size(8, 1, 2, 16, 64, "eager")
    monkeypatch.setitem(gpu_parts.SIZES, "cpu", size)
    bench = Bench("cpu", ends=time.monotonic() + (5 if late else 1e6))
    bench.model, bench.evaluation = Model(), 0.01  # type: ignore[assignment]
    found = gpu_parts.profile(bench)
    assert asked == [8 if late else 16] and found["evaluations_a_sample"] == 64
    assert found["of_them_evaluations"] == pytest.approx(0.01 * 64 * asked[0])
    computed = (found["seconds"] + 8 * 64 * 0.01) / 60
    assert found.get("minutes_of_16_samples_computed") == (
        pytest.approx(computed) if late else None
    )


def test_the_environment_of_one_process_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with one_rank():
        assert os.environ["MASTER_ADDR"] == "127.0.0.1" and os.environ["WORLD_SIZE"] == "1"
    assert os.environ["MASTER_ADDR"] == "elsewhere" and "WORLD_SIZE" not in os.environ


def test_what_is_asked_of_a_model_is_counted() -> None:
    counted = Counted(lambda x, sigma, **rest: x + rest["more"])
    assert float(counted(torch.zeros(3, 1), torch.ones(3), more=2.0).sum()) == 6
    counted(torch.zeros(2, 1), torch.ones(2), more=0.0)
    assert counted.samples == 5


def test_the_tests_that_it_runs_are_there() -> None:
    import test_no_overhead

    for name in gpu_parts.CUDA_TESTS[2].split(" or "):
        assert hasattr(test_no_overhead, f"test_{name}")


# What is kept and what is left


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of two parts ran, of which the first can be made to fail."""
    ran: list[str] = []

    def part(name: str, bench: Bench) -> Found:
        ran.append(name)
        if bench.ends == 1e12 and name == "a":
            raise RuntimeError("the driver fell over")
        return {"seconds": 1.0, "inside": {"peak_mib": 2.0}}

    for name in list(PARTS):
        monkeypatch.delitem(PARTS, name)
    for name in ("a", "b"):
        monkeypatch.setitem(PARTS, name, lambda bench, name=name: part(name, bench))
    return ran


def test_a_part_that_fails_leaves_the_others_and_is_run_again(
    ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.run(Bench("cpu", ends=1e12), ["a", "b"], path) == ["a"]
    assert "the driver fell over" in capsys.readouterr().out
    assert list(load_results(path)) == ["b"]
    assert gpu.run(Bench("cpu", ends=float("inf")), ["a", "b"], path) == []
    assert ran == ["a", "b", "a"] and set(load_results(path)) == {"a", "b"}
    said = capsys.readouterr().out
    assert "b: there already" in said and "    peak_mib: 2" in said


def test_no_part_begins_when_the_time_is_over(
    ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.run(Bench("cpu", ends=0.0), ["a", "b"], None) == [] and ran == []
    assert "a: left out, the time is over" in capsys.readouterr().out


def test_on_the_cpu_nothing_is_written(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    gpu.main(["--device", "cpu", "--parts", "a", "b"])
    assert ran == ["a", "b"] and not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_nothing_runs(
    ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main([])
    assert ran == [] and "not run, nothing is written" in capsys.readouterr().out
