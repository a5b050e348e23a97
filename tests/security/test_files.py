"""Files of others: models without code, images within limits, archives left alone."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from benchmarks.support.tiny_models import make_tiny_clip, make_tiny_model, make_tiny_vit
from study.tracking.event_metrics import ImageFile
from study.tracking.run_writer import log_image
from tests.helpers.canary import Canary
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.data.images import MAX_PIXELS, check_image, list_images, read_image
from trainables.errors import UserError
from trainables.evaluation.checks import check_metric_models
from trainables.evaluation.encoders import load_clip, load_image_encoder
from trainables.methods.adapters import load_adapters
from trainables.models.folders import check_model
from trainables.models.loading import load_backbone
from trainables.util.checkpoint import Checkpoint, load_latest, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    make_tiny_model(folder, resolution=16, width=16)
    return folder


@pytest.fixture
def poison(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle that makes a file when it is loaded, and the file."""
    return pickle.dumps(Canary(tmp_path / "sang")), tmp_path / "sang"


def zipped(poison: bytes) -> bytes:
    """As torch.save writes it: a zip file with the pickle in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", poison)
        file.writestr("archive/version", "3\n")
    return content.getvalue()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_with_pickled_weights_only_is_refused(
    part: str, model: Path, poison: tuple[bytes, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    for path in (copy / part).glob("*.safetensors"):
        path.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    (copy / part / name).write_bytes(zipped(poison[0]))
    (problem,) = check_model(ModelConfig(path=str(copy)))
    assert f"no safetensors weights in {part}/" in problem
    assert "safe_serialization=True" in problem
    with pytest.raises(UserError, match="no safetensors weights"):
        load_backbone(ModelConfig(path=str(copy)))
    # A file of the right ending does not help: the loader itself looks for nothing else.
    (copy / part / "notes.safetensors").touch()
    with pytest.raises(Exception, match=r"safetensors|EnvironmentError|no file named"):
        load_backbone(ModelConfig(path=str(copy)))
    assert not poison[1].exists()


def test_pickles_beside_sound_weights_are_passed_over(
    model: Path, poison: tuple[bytes, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    for place, name in (
        ("unet", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.bin"),
        ("text_encoder", "pytorch_model.bin"),
        (".", "pipeline.py"),
    ):
        (copy / place / name).write_bytes(
            zipped(poison[0]) if name.endswith("bin") else b"raise SystemExit('ran')"
        )
    assert load_backbone(ModelConfig(path=str(copy))).resolution == 16
    assert not poison[1].exists()


@pytest.mark.parametrize(
    "change",
    [
        {"unet": ["os", "system"]},
        {"unet": ["evil_module", "Unet"]},
        {"text_encoder": ["pipeline", "Evil"]},
        {"extra": ["antigravity", "x"]},
        {"_class_name": ["pipeline", "Evil"]},
        {"_class_name": "CustomPipeline"},
    ],
    ids=str,
)
def test_a_model_that_names_code_of_its_own_is_refused(
    change: dict[str, object], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diffusers imports the module that model_index.json names for a part."""
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    index = json.loads((model / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, **change}))
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (copy / "pipeline.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    assert check_model(ModelConfig(path=str(copy)))
    with pytest.raises(UserError, match=r"wants code of|not supported"):
        load_backbone(ModelConfig(path=str(copy)))
    assert not (tmp_path / "ran").exists()


def test_metric_models_with_pickles_or_code_are_refused(poison: tuple[bytes, Path], tmp_path: Path) -> None:
    for make, field, load in (
        (make_tiny_clip, "clip", load_clip),
        (make_tiny_vit, "image_encoder", load_image_encoder),
    ):
        folder = tmp_path / field
        make(folder, resolution=16)
        config = json.loads((folder / "config.json").read_text())
        for path in folder.glob("*.safetensors"):
            path.rename(path.with_suffix(".bin"))
        (folder / "pytorch_model.bin").write_bytes(zipped(poison[0]))
        (problem,) = check_metric_models(**{field: str(folder)})
        assert "weights as *.safetensors" in problem
        with pytest.raises(UserError, match="safetensors"):
            load(str(folder))
        (folder / "model.bin").rename(folder / "model.safetensors")
        # Code beside a configuration of an unknown kind is never imported.
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        evil = {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
        (folder / "config.json").write_text(json.dumps({**config, **evil}))
        with pytest.raises(UserError):
            load(str(folder))
    assert not poison[1].exists()
    assert not (tmp_path / "ran").exists()


def test_checkpoints_caches_and_weights_are_never_unpickled(
    model: Path, poison: tuple[bytes, Path], tmp_path: Path
) -> None:
    content, nest = poison
    place = save_checkpoint(tmp_path / "checkpoint", Checkpoint(1, {"a": torch.ones(2)}, {"n": 1}))
    for bad in (content, zipped(content)):
        (place / "tensors.safetensors").write_bytes(bad)
        assert load_latest(tmp_path / "checkpoint") is None  # its digest does not fit
        state = json.loads((place / "state.json").read_text())
        state["tensors_sha256"] = hashlib.sha256(bad).hexdigest()
        (place / "state.json").write_text(json.dumps(state))
        assert load_latest(tmp_path / "checkpoint") is None  # nor with a digest that does
    cache = Cache(tmp_path / "cache")
    entry = cache.path("latents", {"a": 1})
    entry.parent.mkdir(parents=True)
    entry.write_bytes(zipped(content))
    assert cache.tensors("latents", {"a": 1}, lambda: {"x": torch.ones(1)})["x"].item() == 1
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "pytorch_lora_weights.bin").write_bytes(zipped(content))
    pipeline = load_backbone(ModelConfig(path=str(model))).pipeline()
    with pytest.raises(Exception, match=r"pytorch_lora_weights\.safetensors|safetensors"):
        load_adapters(pipeline, weights)
    (weights / "pytorch_lora_weights.bin").rename(weights / "pytorch_lora_weights.safetensors")
    with pytest.raises(Exception, match=r"(?i)header|safetensors|deserializ"):
        load_adapters(pipeline, weights)
    assert not nest.exists()
    pickle.loads(content)
    assert nest.exists()


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large; its pixels would all be zero."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    end = chunk(b"IEND", b"")
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + end


@pytest.mark.parametrize("side", [13_400, 30_000, 2**31 - 1])
def test_decompression_bombs_are_refused_before_they_are_decoded(side: int, tmp_path: Path) -> None:
    assert side * side > MAX_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(UserError, match="at most 178 million are decoded"):
        read_image(path)


@pytest.mark.parametrize(
    "content", [bomb(13_400, 13_400), bomb(20_000, 20_000), b"", b"no picture", bomb(640, 640)]
)
def test_a_damaged_picture_or_a_bomb_in_a_run_s_folder_is_passed_over(content: bytes, tmp_path: Path) -> None:
    """Not uploaded, and no reason to keep the run's numbers from MLflow."""
    (tmp_path / "bomb.png").write_bytes(content)
    log_image(None, "id", tmp_path, ImageFile("key", "bomb.png", 1, 1, 1), "prefix")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"%PDF-1.4",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
        b"GIF89a",
        b"\xff\xd8\xff",
    ],
    ids=["empty", "pdf", "svg", "gif", "jpeg"],
)
def test_what_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    problem = check_image(tmp_path / "photo.png")
    assert problem is not None
    assert "photo.png: is" in problem


def test_archives_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("../../outside.png", b"x")
    files, problems = list_images(tmp_path / "photos.zip")
    assert files == []
    assert "is a file; images must be a folder" in problems[0]
    files, _ = list_images(tmp_path)
    assert "not an image that Pillow can read" in str(check_image(files[0]))
    assert [path.name for path in tmp_path.rglob("*")] == ["photos.zip"]


def test_the_control_a_sound_model_is_accepted(model: Path) -> None:
    assert check_model(ModelConfig(path=str(model))) == []
