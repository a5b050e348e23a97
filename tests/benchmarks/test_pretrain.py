"""Pre-training at toy size: every stage runs, resumes where it stopped, and the export loads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import pretrain
from benchmarks.pretraining import common, muon, norms
from benchmarks.pretraining.common import Budget, cosine, warmup_stable_decay


@pytest.fixture
def base(tmp_path: Path) -> Budget:
    torch.set_num_threads(1)
    work = tmp_path / "state"
    work.mkdir()
    return Budget(work, steps=2, batch=4, identities=64, checkpoint_every=1, tiny=True)


def test_all_stages_then_export(base: Budget, tmp_path: Path) -> None:
    for stage in common.STAGES:
        pretrain.RUN[stage](replace(base, batch=16 if stage in ("image_encoder", "grading") else 4))
    size = pretrain.export(base.work, tmp_path / "weights")
    assert 0 < size < 32e6

    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "weights" / "generator")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a cat", num_inference_steps=2).images[0].size == (64, 64)


def test_a_resumed_stage_ends_where_an_unbroken_one_does(
    base: Budget, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = replace(base, steps=4)
    pretrain.RUN["judge"](whole)
    unbroken = torch.load(base.work / "judge.pt", weights_only=True)["modules"]["judge"]

    (base.work / "judge.pt").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_atomic", _stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            pretrain.RUN["judge"](whole)
    pretrain.RUN["judge"](whole)
    assert "judge resumes at step 2" in capsys.readouterr().out
    resumed = torch.load(base.work / "judge.pt", weights_only=True)["modules"]["judge"]
    for name, value in unbroken.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-3, atol=1e-4)


def _stop_after(step: int):  # type: ignore[no-untyped-def]
    real = common.save_atomic

    def save(state: dict, path: Path) -> None:
        real(state, path)
        if state["step"] == step:
            raise KeyboardInterrupt

    return save


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain.main(
        ["--out", str(tmp_path), "--stage", "judge", "--minutes", "0.01", "--tiny", "--identities", "64"]
    )
    assert "judge step 1/1" in capsys.readouterr().out
    assert (tmp_path / "state" / "judge" / "model.safetensors").exists()


def test_minutes_scale_all_stages_alike() -> None:
    base = Budget(Path("."), steps=0, batch=0)
    total = sum(cost for _, _, cost in pretrain.SHIPPED.values())
    for stage, (steps, batch, _) in pretrain.SHIPPED.items():
        half = pretrain.budget_for(stage, base, total / 2)
        assert (half.steps, half.batch) == (steps // 2, batch)


def test_schedules() -> None:
    assert cosine(99, 1000) == 1.0
    assert cosine(1000, 1000) == pytest.approx(0, abs=1e-9)
    assert warmup_stable_decay(500, 1000) == 1.0
    assert warmup_stable_decay(500, 2000) == 1.0
    assert warmup_stable_decay(875, 1000) == pytest.approx(0.5)


def test_muon_orthogonalises() -> None:
    matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(muon.orthogonalize(matrix, 6))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_the_faster_group_norm_is_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    plain, fast = torch.nn.GroupNorm(4, 8), torch.nn.GroupNorm(4, 8)
    norms.speed_up_group_norms(fast)
    grad = torch.randn(2, 8, 8, 8, generator=rng)
    results = []
    for norm in (plain, fast):
        x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        x = (x + 2).to(memory_format=torch.channels_last).requires_grad_()
        y = norm(x)
        y.backward(grad)
        results.append((y, x.grad, norm.weight.grad, norm.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
