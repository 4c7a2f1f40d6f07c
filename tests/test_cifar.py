"""The CIFAR-10 benchmark: its reader, its training that can be prolonged, its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.cifar import data, experiment, report, train
from benchmarks.cifar.features import CifarFeatures, augment, gaussian
from benchmarks.cifar.network import IMAGE_SHAPE, NO_CLASS, CifarDenoiser, CifarUNet, load_network
from benchmarks.cifar.problem import problem
from benchmarks.common import add_result
from benchmarks.emoji.features import frechet_gaussians
from dode_core.demo.model import save_network

TINY = {"sigma_data": 0.5, "channels": 16, "multipliers": (1, 1), "patch": 4, "emb": 32, "full": 8}


def shade(label: int, number: int, split: str) -> int:
    return 20 * label + 5 * number + (2 if split == "test" else 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two even JPEGs of every class for training, one for testing."""
    folder = tmp_path_factory.mktemp("cifar")
    for split, count in (("train", 2), ("test", 1)):
        for label, name in enumerate(data.CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((32, 32, 3), shade(label, number, split), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    return folder


# The data


def test_images_and_labels_are_those_of_the_folders(folder: Path) -> None:
    found = data.read(folder, "train")
    assert found.images.shape == (20, *IMAGE_SHAPE) and found.images.dtype == torch.uint8
    assert found.labels.tolist() == [label for label in range(10) for _ in range(2)]
    expected = [shade(label, number, "train") for label in range(10) for number in range(2)]
    torch.testing.assert_close(
        found.images.float().mean((1, 2, 3)), torch.tensor(expected).float(), rtol=0, atol=1.0
    )
    assert data.read(folder, "test").labels.tolist() == list(range(10))


def test_scaled_images_reach_from_minus_one_to_one() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8)
    assert data.scaled(ends).tolist() == [-1, 1]


def test_a_folder_without_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="airplane holds no .jpg"):
        data.read(tmp_path, "train")


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "airplane").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "train" / "airplane" / "0.png")
    with pytest.raises(data.DataError, match="64x48 pixels, CIFAR-10 has 32x32"):
        data.read(tmp_path, "train")


# The network and its training


def test_a_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CifarUNet(**TINY)
    for parameter in network.parameters():  # some start at zero, which hides the labels
        torch.nn.init.normal_(parameter, std=0.1)
    save_network(network, tmp_path / "tiny.safetensors")
    again = CifarDenoiser(load_network(tmp_path / "tiny.safetensors"))
    x, labels = torch.randn(3, *IMAGE_SHAPE), torch.tensor([0, 9, NO_CLASS])
    sigma = torch.tensor([0.1, 1.0, 10.0])
    expected = network(x, sigma, labels)
    found = again(x, sigma, labels=labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
    others = again(x, sigma, labels=torch.tensor([1, 8, 0]))
    assert (others != found).flatten(1).any(1).all()  # the label counts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four, a checkpoint every two steps, a tiny network."""
    monkeypatch.setattr(train, "BATCH", 4)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.setattr(train, "WARM_UP", 8)
    monkeypatch.setattr(train, "CifarUNet", lambda: CifarUNet(**TINY))


def trained(folder: Path, out: Path, *, images: int, decay: int = 0) -> train.Training:
    """As the command does it; the state at the end of the constant rate."""
    out.mkdir(exist_ok=True)
    how = ["--images", str(images), "--decay", str(decay), "--out", str(out), "--device", "cpu"]
    train.main([str(folder), *how])
    found = train.Training("cpu")
    found.load(out / train.CHECKPOINT)
    return found


@pytest.mark.usefixtures("small")
def test_training_that_was_stopped_ends_where_it_would_have(folder: Path, tmp_path: Path) -> None:
    whole = trained(folder, tmp_path / "whole", images=16)
    trained(folder, tmp_path / "parts", images=8, decay=4)
    parts = trained(folder, tmp_path / "parts", images=16)
    assert whole.seen == parts.seen == 16
    for one, other in ((whole.network, parts.network), (whole.average, parts.average)):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("small")
def test_the_last_phase_writes_weights_and_leaves_the_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    constant = trained(folder, tmp_path, images=8, decay=8)
    assert constant.seen == 8
    last = load_network(tmp_path / train.WEIGHTS)
    moved = [
        (a - b).abs().max()
        for a, b in zip(last.parameters(), constant.average.parameters(), strict=True)
    ]
    assert max(moved) > 1e-4


def test_the_rate_is_constant_and_then_falls_to_zero(tmp_path: Path) -> None:
    constant = train.Phase(100_000, None, tmp_path, None)
    assert constant.rate(0) < constant.rate(50_000) == constant.rate(99_000) == train.LEARNING_RATE
    last = train.Phase(300, 100, tmp_path, None)
    rates = [last.rate(seen) for seen in (100, 200, 300)]
    assert rates == pytest.approx([train.LEARNING_RATE, train.LEARNING_RATE / 2, 0])


# Features


def test_augmented_images_are_shifted_and_mirrored_whole() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32)
    slopes = augment(ramp)[:, 0, 16, 10:22].diff(dim=1)
    step = 2 / 31
    torch.testing.assert_close(slopes.abs(), torch.full_like(slopes, step), rtol=0, atol=1e-6)
    assert 16 < int((slopes[:, 0] > 0).sum()) < 48  # about half of them


def test_frechet_distance_tells_other_images_from_the_same() -> None:
    torch.manual_seed(0)
    network = CifarFeatures().eval()
    images = torch.randint(0, 256, (64, *IMAGE_SHAPE), dtype=torch.uint8)
    same, dark = gaussian(network, images), gaussian(network, images // 2)
    assert frechet_gaussians(same, same) == pytest.approx(0, abs=1e-6)
    assert frechet_gaussians(same, dark) > 1e-3


# The experiment and its tables


def test_fewer_noises_are_the_beginning_of_more() -> None:
    given = problem(Path("unused"))
    few, args = given.noise(5, 3)
    many, more = given.noise(40, 3)
    assert torch.equal(few, many[:5])
    assert args["labels"].tolist() == more["labels"][:5].tolist()
    assert float(many.std()) == pytest.approx(given.high, rel=0.02)


@pytest.mark.parametrize(("solver", "steps"), [("heun", 4), ("ddim", 8), ("dpm_solver_2", 8)])
def test_no_solver_takes_more_evaluations_than_its_column(solver: str, steps: int) -> None:
    assert experiment.steps_of(solver, 8) == steps


def test_every_job_of_the_experiment_is_known() -> None:
    assert len(set(experiment.jobs())) == len(experiment.jobs())
    unknown = {job.split("/", 1)[1] for job in experiment.jobs()} - set(experiment.OURS)
    own = {experiment.PROFILE, experiment.BUILT_IN, experiment.CONVERGED, experiment.DATA}
    assert unknown == own


def scores(frechet: float, rms: float, **more: object) -> dict[str, object]:
    return {"frechet": frechet, "rms": rms, "median": rms / 2, **more}


def test_tables_hold_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    done = {
        "5/ddim: plain": scores(8.0, 0.4, evaluations=5),
        "5/ddim: paper's D-": scores(6.0, 0.3, evaluations=5),
        "8/heun: plain": scores(9.0, 0.5, evaluations=7),
        "5/profile quick": scores(2.0, 0.1, evaluations=5),
        "5/best built-in": scores(3.0, 0.2, evaluations=5, sampler="deis, karras"),
        "0/data": scores(0.5, 0.0, frechet_spread=0.1, images=99),
    }
    report.write(done)
    lines = capsys.readouterr().out.splitlines()
    assert "as many training images: Frechet distance 0.50 +- 0.10, 99 images" in lines
    assert "| DDIM | 8.00, 0.4000 / 0.2000 |  |" in lines
    assert "| D-DDIM | 6.00, 0.3000 / 0.1500 |  |" in lines
    assert "| EDM |  | 9.00, 0.5000 / 0.2500 (7) |" in lines
    assert "D-DDIM over DDIM at 5: frechet 0.75, rms 0.75, median 0.75" in lines
    assert "| one calibration for every run | 2.00, 0.1000 / 0.0500 |" in lines
    assert "| which is | deis, karras |" in lines


def test_results_of_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar.json"
    experiment.check(path, "aaaa")  # there are none yet
    add_result(path, "0/data", {}, weights={"digest": "aaaa"})
    experiment.check(path, "aaaa")
    with pytest.raises(experiment.ExperimentError, match="of the weights aaaa, these are bbbb"):
        experiment.check(path, "bbbb")
