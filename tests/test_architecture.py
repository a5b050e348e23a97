"""The rules of who may import whom (docs/architecture.md), read from the sources themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("search_spaces", "trainables", "study")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 450, 120


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Returns every module that a file imports, at its top or inside functions, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported(path)
        if any(name == ban or name.startswith(ban + ".") for ban in forbidden)
    ]


def test_search_spaces_know_only_yaml_and_validation() -> None:
    banned = ("torch", "ray", "mlflow", "optuna", "study", "pandas", "diffusers", "transformers", "peft")
    assert offenders(sources("search_spaces"), *banned) == []


def test_training_knows_nothing_of_the_study() -> None:
    assert offenders(sources("trainables"), "ray", "mlflow", "optuna", "study") == []


def test_the_report_reads_frames_only() -> None:
    paths = sources("study/report")
    assert paths
    assert offenders(paths, "torch", "ray", "mlflow", "optuna", "diffusers", "transformers", "peft") == []


@pytest.mark.parametrize(
    ("room", "banned"),
    [
        ("tracking", ("torch", "ray")),
        ("remote", ("torch", "ray", "optuna", "mlflow")),
        ("cluster", ("torch", "optuna", "mlflow")),
        ("watch", ("torch", "ray")),
    ],
)
def test_rooms_of_the_study_keep_to_their_own(room: str, banned: tuple[str, ...]) -> None:
    paths = sources(f"study/{room}")
    assert len(paths) > 3
    assert offenders(paths, *banned) == []


def test_ray_lives_in_few_rooms() -> None:
    users = {name.split(" ")[0] for name in offenders(sources("study"), "ray")}
    allowed = {
        "execute",
        "worker",
        "early_stopping",
        "search",
        "tuning",
        "team_attempt",
        "team_backend",
        "cluster/local_ray",
        "machine",
        "cluster/joining",
        "cluster/nodes",
        "lint/cluster",
        "cluster/submit",
    }
    assert users <= {f"study/{name}.py" for name in allowed}
    assert "study/ray_tune/run_actor.py" in users


def test_train_and_tune_are_not_mixed_up() -> None:
    """``ray.train.report`` and ``ray.train.RunConfig`` fail inside Tune (Ray 2.60): two modules have Ray Train."""
    train = [ROOT / "study/ray_tune/distributed_attempt.py", ROOT / "study/ray_tune/torch_backend.py"]
    assert offenders([path for path in sources("study") if path not in train], "ray.train", "ray.air") == []
    assert offenders(train, "ray.tune", "ray.air") == []


@pytest.mark.parametrize(
    "module",
    [
        "study.cli.main",
        "study.spec.study_spec",
        "study.monitor.live_view",
        "trainables.config.fields",
        "search_spaces.loader",
    ],
)
def test_importing_is_light(module: str) -> None:
    heavy = {"torch", "ray", "mlflow", "optuna", "pandas", "matplotlib", "diffusers", "transformers", "scipy"}
    code = f"import sys, {module}; print(' '.join(sorted({heavy!r} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
    assert done.stderr == ""


def test_files_and_functions_stay_small() -> None:
    long = []
    for path in sources(*PACKAGES):
        text = path.read_text()
        if text.count("\n") > MAX_FILE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.name}: {lines} lines")
    assert long == []


def test_nothing_reads_pickles() -> None:
    """Nothing from storage may be unpickled: safetensors and JSON, or torch's loader that refuses code."""
    assert offenders(sources(*PACKAGES), "pickle", "cloudpickle", "dill", "joblib") == []
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path.relative_to(ROOT)}:{node.lineno}"
