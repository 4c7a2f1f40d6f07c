"""Diffusers folders: the denoisers against diffusers' own Euler, the command, what is refused."""

from __future__ import annotations

import builtins
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dode_core as dode
from dode_core.__main__ import main
from dode_core.offline.loading import Loaded, Wanted, read_lines
from dode_core.offline.sources import load

PROMPTS = ["a cat", "dog"]


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny pipeline of every kind, in a folder of its kind's name."""
    from hosts.pipelines import KINDS, write_pipeline

    root = tmp_path_factory.mktemp("pipelines")
    for kind in KINDS:
        write_pipeline(root / kind, kind)
    write_pipeline(root / "sd_v", "sd", prediction="v_prediction")
    return root


def pipeline_sample(
    loaded: Loaded, x: torch.Tensor, cfg: float
) -> tuple[torch.Tensor, list[float]]:
    """(what diffusers' own loop makes of the noise, on which sigmas)."""
    pipe: Any = loaded.model.pipe  # type: ignore[attr-defined]
    pipe.set_progress_bar_config(disable=True)
    flux = "Flux" in type(pipe).__name__
    latents = pipe._pack_latents(x, *x.shape) if flux else x
    more = {} if flux else {"negative_prompt": ["bad"] * len(x)}
    out = pipe(
        prompt=PROMPTS,
        num_inference_steps=5,
        guidance_scale=cfg,
        latents=latents,
        output_type="latent",
        height=64,
        width=64,
        **more,
    ).images
    out = pipe._unpack_latents(out, 64, 64, pipe.vae_scale_factor) if flux else out
    return out, pipe.scheduler.sigmas.tolist()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["sd", "sd_v", "sdxl", "sd3", "flux"])
def test_ddim_is_what_the_pipeline_does(kind: str, cfg: float, folders: Path) -> None:
    """Plain DDIM on the pipeline's own sigmas is its own Euler run, to float32 rounding."""
    loaded = load(str(folders / kind), Wanted(PROMPTS, "bad", (64, 64)))
    x = torch.randn(2, *loaded.shape, generator=torch.Generator().manual_seed(0))
    theirs, sigmas = pipeline_sample(loaded, x, cfg)
    args = loaded.conditions(2, cfg)
    kind_of = {"parametrization": loaded.parametrization, "disable": True}
    ours = dode.sample(loaded.model, x * sigmas[0], sigmas, args, solver="ddim", **kind_of)
    assert theirs.std() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)
    other = dode.sample(
        loaded.model, x * sigmas[0], sigmas, loaded.conditions(2, cfg + 1), **kind_of
    )
    assert (other - theirs).abs().max() > 1e-3  # guidance arrives


def test_sizes_and_ranges(folders: Path) -> None:
    sd = load(str(folders / "sd"), Wanted(size=(128, 64)))
    assert sd.shape == (4, 8, 16) and sd.high == pytest.approx(14.6146, abs=1e-3)
    assert sd.low == pytest.approx(0.02917, abs=1e-4) and sd.file == folders / "sd.dode.json"
    flux = load(str(folders / "flux"), Wanted(size=(64, 64)))
    assert flux.shape == (4, 8, 8) and flux.parametrization == "flow"
    assert flux.sigmas("auto", 4).tolist() == pytest.approx([1, 9 / 10, 3 / 4, 1 / 2, 0])
    with pytest.raises(dode.CalibrationError, match="Size 100x64 is no multiple of 8"):
        load(str(folders / "sd"), Wanted(size=(100, 64)))


def run(*arguments: str) -> int:
    return main(["distill", "--samples", "4", "--steps", "3", "--size", "64x64", *arguments])


def test_the_command(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts from a file, the table beside the folder, with all that it was made for."""
    for kind in ("sd", "sd3"):
        shutil.copytree(folders / kind, tmp_path / kind)
    (tmp_path / "prompts.txt").write_text("# mine\na cat\n\ndog\n", encoding="utf-8-sig")
    arguments = ["--diffusers", str(tmp_path / "sd"), str(tmp_path / "sd3"), "--cfg", "2"]
    arguments += ["--prompts", str(tmp_path / "prompts.txt"), "--solver", "ddim,dpmpp_2m"]
    assert run(*arguments, "--device", "cpu") == 0
    assert capsys.readouterr().out.count("2 tables made, 0 were there") == 2
    for kind, parametrization in (("sd", "ve"), ("sd3", "flow")):
        tables = dode.load_tables(tmp_path / f"{kind}.dode.json")
        assert [t.solver for t in tables] == ["ddim", "dpmpp_2m"]
        for table in tables:
            assert table.parametrization == parametrization and table.cfg == 2.0
            assert table.model_name == kind and table.model_fingerprint.startswith("file:")
            assert table.samples_fit + table.samples_holdout == 4 and table.seed == 0
            assert table.errors and table.errors.distilled_holdout is not None
    assert run(*arguments, "--device", "cpu") == 0
    assert capsys.readouterr().out.count("0 tables made, 2 were there") == 2


def test_a_list_goes_on_where_it_stopped(
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the second checkpoint: the first is saved, the second untouched, then finished."""
    from dode_core.offline import batch

    names = ["demo:emoji_edm", str(tmp_path / "sd"), "demo:emoji_flow"]
    shutil.copytree(folders / "sd", tmp_path / "sd")
    (tmp_path / "list.txt").write_text("\n".join(names))
    monkeypatch.chdir(tmp_path)
    real, done = batch.distill_many, []

    def stopping(*args: Any, **options: Any) -> Any:
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "distill_many", stopping)
        assert run("--list", "list.txt") == 130
    assert [path.name for path in tmp_path.glob("*.dode.json")] == ["emoji_edm.dode.json"]
    before = (tmp_path / "emoji_edm.dode.json").read_bytes()
    capsys.readouterr()
    assert run("--list", "list.txt") == 0
    assert len(list(tmp_path.glob("*.dode.json"))) == 3
    assert (tmp_path / "emoji_edm.dode.json").read_bytes() == before
    assert "0 tables made, 1 were there" in capsys.readouterr().out


def test_one_bad_checkpoint_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("demo:nothing\ndemo:emoji_flow\nmissing\n")
    assert run("--list", "list.txt") == 1
    assert (tmp_path / "emoji_flow.dode.json").exists()
    assert "2 of 3 checkpoints failed" in capsys.readouterr().err


# What is refused


@pytest.fixture
def copy(folders: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders / "sd", tmp_path / "sd"))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(dode.DodeError, match=words) as caught:
        load(str(folder), Wanted())
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    for part in ("unet", "text_encoder"):
        (weights,) = (copy / part).glob("*.safetensors")
        kept = weights.read_bytes()
        weights.unlink()
        name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        (copy / part / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
        refused(copy, r"not read" if part == "unet" else "diffusers cannot load sd")
        weights.write_bytes(kept)


def test_weights_with_a_bad_header(copy: Path) -> None:
    (weights,) = (copy / "unet").glob("*.safetensors")
    weights.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    refused(copy, "no valid safetensors file")


INDEXES: dict[str, Any] = {
    "class": ({"_class_name": "os.system"}, "pipelines of"),
    "module": ({"unet": ["os", "system"]}, "unknown library"),
    "own code": ({"unet": ["my_unet", "MyUNet"]}, "unknown library"),
    "shape": ({"unet": ["diffusers"]}, "unknown library"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_names_other_code(case: str, copy: Path) -> None:
    change, words = INDEXES[case]
    path = copy / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(copy, words)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"[" * 5000, b"\xff", b'{"_class_name": []}'])
def test_an_index_that_is_none(raw: bytes, copy: Path) -> None:
    (copy / "model_index.json").write_bytes(raw)
    refused(copy, "model_index.json is not valid|pipelines of")


def test_not_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "cannot be read")


def test_without_diffusers(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name == "diffusers":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(copy, "pip install diffusers transformers")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name a checkpoint"),
        (["--demo", "sdxl"], "Demo model 'sdxl' is unknown"),
        (["--demo", "emoji_edm", "--solver", "euler"], "Solver 'euler' is unknown"),
        (["--demo", "emoji_edm", "--steps", "x"], "no step count"),
        (["--demo", "emoji_edm", "--steps", "1-99999999999"], "no step count"),
        (["--demo", "emoji_edm", "--size", "big"], "no size"),
        (["--demo", "emoji_edm", "--schedule", "linear"], "Schedule 'linear' is unknown"),
        (["--demo", "emoji_edm", "--samples", "0"], "noise of shape"),
        (["--demo", "emoji_edm", "--prompts", "none.txt"], "none.txt cannot be read"),
    ],
)
def test_options_that_make_no_sense(
    arguments: list[str], words: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["distill", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "raw", [b"", b"# only\n", b"\xff\xfe", b"a\x00b", b"x" * 5000, b"\x1b[31m"]
)
def test_prompt_files_that_are_none(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(raw)
    with pytest.raises(dode.CalibrationError, match=r"p\.txt is no"):
        read_lines(tmp_path / "p.txt", "prompts")
