"""The rules of who may import whom and what stands where (docs/architecture.md), read from the sources themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from study.storage import layout
from tests.helpers.imports import ROOT, Import, circles, file_of, imports, loaded_with, room_of, sources
from tests.helpers.private_names import private_names
from trainables import events
from trainables.models.families import FAMILIES

PACKAGES = ("search_spaces", "trainables", "study")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 450, 120

# A folder or loose file of study/, and those that it may import. `FACES` may import all, and nobody imports `cli`.
ROOMS = {
    "util": "",
    "lint": "",
    "statistics": "",
    "storage": "util",
    "remote": "storage util",
    "spec": "remote storage util",
    "worker": "remote storage util",
    "tracking": "statistics spec remote storage util",
    "ledger": "spec storage util",
    "cluster": "remote spec storage util",
    "results": "tracking storage util",
    "dispatch": "ledger worker remote spec storage",
    "ray_tune": "dispatch worker cluster spec",
    "preflight": "cluster tracking lint statistics remote spec storage util",
    "driver": "ray_tune dispatch cluster ledger remote spec storage util",
    "monitor": "tracking ledger remote spec storage util",
    "report": "results statistics spec storage util",
    "export": "tracking spec remote storage util",
    "submit": "preflight cluster lint spec storage util",
}
FACES = ("__init__", "any_results", "api", "generate", "cli")
LOOSE_IN_STUDY = {"__init__.py", "any_results.py", "api.py", "generate.py", "py.typed"}

# A folder or loose file of trainables/ imports only those of the levels before its own, and none of its own level.
# Evaluation stands above the methods because it asks a method for the latency of what it has trained
# (`evaluation/latency.py`); it knows nothing of distributed training.
TRAINABLES = (
    "errors events randomness embedded", "util storage_errors", "config", "data", "models",
    "methods distributed classifiers", "evaluation", "run_config", "classifier_run_config", "training",
    "run", "downstream", "__main__",
)  # fmt: skip
BELOW = {
    room: set(" ".join(TRAINABLES[:level]).split())
    for level, rooms in enumerate(TRAINABLES)
    for room in rooms.split()
}
LOOSE_IN_TRAINABLES = {
    "__init__.py", "__main__.py", "errors.py", "events.py", "randomness.py", "storage_errors.py", "run_config.py",
    "classifier_run_config.py", "py.typed",
}  # fmt: skip

# The folders and files of study/ that may import a package.
USERS = {
    "ray": ("study/cluster", "study/ray_tune", "study/submit", "study/lint/ray_up.py"),
    "optuna": ("study/ledger", "study/monitor/dashboards.py", "study/monitor/shown_ledger.py"),
    "mlflow": ("study/tracking", "study/results/from_mlflow.py"),
}
TORCH = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors.torch")
ENTRANCES = {
    "driver": "study.driver.launch",
    "ray_tune": "study.ray_tune.experiment",
    "report": "study.report",
}

# Names with a leading underscore that files take from other packages. That they are there, say test_ray_private.py,
# test_optuna_private.py and test_private_names.py.
PRIVATE: dict[str, set[str]] = {
    "study/driver/watchdog.py": {"_exit"},  # os._exit is documented
    "study/lint/ray_up.py": {"_private", "_derive_autoscaling_config_from_ray_cr"},
    "study/ledger/ledger.py": {"_study_id", "_trial_id"},
    "study/ledger/trial.py": {"_trial_id"},
    "study/ledger/retrying_storage.py": {"_rdb"},
    "study/monitor/shown_ledger.py": {"_study_id", "_trial_id"},
    "trainables/distributed/fsdp.py": {"_foreach_mul_", "_no_split_modules"},
    "trainables/distributed/worker_group.py": {"_abort_process_group", "_get_default_store"},
    "trainables/methods/adapter_files.py": {"_FBD_CUDA"},
    "trainables/methods/adapters.py": {"_disable_adapters"},
    "trainables/methods/custom_diffusion.py": {"_pipeline"},  # an argument
    "trainables/models/added_tokens.py": {"_weight"},  # an argument
    "trainables/models/quantization.py": {"_keep_in_fp32_modules", "_parameters"},
    "trainables/models/structure.py": {
        "_version", "_backward_hooks", "_post_accumulate_grad_hooks", "_parameters", "_buffers",
        "_hf_peft_config_loaded",
    },
    "trainables/training/loop.py": {"_last_lr"},
    "trainables/training/trainer.py": {"_reset_state"},
    "benchmarks/measuring.py": {"_private"},
    "benchmarks/pretraining/common.py": {"_foreach_lerp_"},
    "benchmarks/support/s3_server.py": {"_exit"},
    "tests/faults/harness/hosts.py": {"_private", "_raylet", "_initialize_global_state"},
}  # fmt: skip
MACHINE_OF_A_DRIVER = "tests/faults/harness/drive.py"  # which replaces names of study.remote.lease
RAYS_PRIVATE_NAMES = "study/cluster/ray_private.py"


def all_imports(*folders: str) -> list[Import]:
    return [found for path in sources(*folders) for found in imports(path)]


def offenders(found: list[Import], *packages: str) -> list[str]:
    return [str(each) for each in found if each.is_of(*packages)]


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Rooms and circles


def test_rooms_of_the_study_import_those_below_them_alone() -> None:
    wrong = []
    for found in all_imports("study"):
        target, room = file_of(found.module), room_of(found.path)
        if target is None or not found.is_of("study") or room in FACES:
            continue
        check_listed(room, ROOMS, found.path)
        if room_of(target) not in (room, *ROOMS[room].split()):
            wrong.append(str(found))
    assert wrong == []


def check_listed(room: str, rooms: Mapping[str, object], path: Path) -> None:
    assert room in rooms, (
        f"{name_of(path)}: nothing says yet what {room!r} may import; give it a place in this file"
    )


def test_a_folder_that_is_not_listed_is_named() -> None:
    with pytest.raises(AssertionError, match=r"study/new/x.py: nothing says yet what 'new' may import"):
        check_listed("new", ROOMS, ROOT / "study" / "new" / "x.py")


def test_nobody_imports_the_command_line() -> None:
    found = [each for each in all_imports(*PACKAGES) if not name_of(each.path).startswith("study/cli/")]
    assert offenders(found, "study.cli") == []


def test_trainables_import_what_stands_before_them() -> None:
    wrong = []
    for found in all_imports("trainables"):
        target, room = file_of(found.module), room_of(found.path)
        if target is None or not found.is_of("trainables") or room == "__init__":
            continue
        check_listed(room, BELOW, found.path)
        if room_of(target) not in {room, *BELOW[room]}:
            wrong.append(str(found))
    assert wrong == []


def test_packages_import_in_one_direction() -> None:
    assert offenders(all_imports("trainables"), "study", "search_spaces") == []
    assert offenders(all_imports(*PACKAGES), "tests", "benchmarks") == []  # which nobody who installs has
    spaces = [each for each in all_imports("search_spaces") if each.is_of("trainables", "study")]
    assert [str(each) for each in spaces if not each.is_of("trainables.config", "trainables.errors")] == []


def test_files_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {name_of(path): set() for path in sources(*PACKAGES)}
    for found in all_imports(*PACKAGES):
        target = file_of(found.module)
        if target is not None and found.is_of(*PACKAGES) and target != found.path:
            graph[name_of(found.path)].add(name_of(target))
    assert circles(graph) == []


def test_rooms_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in all_imports("trainables", "study"):
        target = file_of(found.module)
        here = f"{found.path.relative_to(ROOT).parts[0]}/{room_of(found.path)}"
        if target is not None and found.is_of("trainables", "study"):
            there = f"{target.relative_to(ROOT).parts[0]}/{room_of(target)}"
            graph.setdefault(here, set()).update({there} - {here})
    assert circles(graph) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    ("package", "allowed"), [("study", LOOSE_IN_STUDY), ("trainables", LOOSE_IN_TRAINABLES)]
)
def test_loose_files_are_few(package: str, allowed: set[str]) -> None:
    assert {path.name for path in (ROOT / package).iterdir() if path.is_file()} == allowed


def test_every_folder_has_its_place_in_the_plan() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "study", "trainables"], cwd=ROOT, capture_output=True, text=True
    )
    folders: dict[str, set[str]] = {"study": set(), "trainables": set()}
    for name in listed.stdout.split():
        package, *between = Path(name).parts[:-1]
        folders[package].update(between[:1])
    assert folders["study"] == {*ROOMS, "cli", "presets"}
    assert folders["trainables"] == {name for name in BELOW if (ROOT / "trainables" / name).is_dir()}


def test_the_plan_allows_no_import_that_is_not_there() -> None:
    used = {
        (name_of(each.path).split("/")[1], each.module.split(".")[1])
        for each in all_imports("study")
        if each.module.startswith("study.")
    }
    allowed = {(room, other) for room, others in ROOMS.items() for other in others.split()}
    assert allowed - used == set()


def test_the_documents_show_the_same_plan() -> None:
    rows = re.findall(r"^\| (`.+?/`) \|.*\| ([a-z_ ]+|-) \|$", text(ROOT / "docs" / "architecture.md"), re.M)
    shown = {
        room: set(others.split()) - {"-"}
        for folders, others in rows
        for room in re.findall(r"`(\w+)/`", folders)
        if others != "all below"
    }
    assert {room: set(others.split()) for room, others in ROOMS.items()} == shown


@pytest.mark.parametrize("room", ENTRANCES)
def test_a_room_with_one_entrance_is_entered_there(room: str) -> None:
    inside = f"study/{room}/"
    found = [each for each in all_imports(*PACKAGES) if not name_of(each.path).startswith(inside)]
    entering = [each for each in found if each.is_of(f"study.{room}")]
    assert entering
    assert [str(each) for each in entering if each.module != ENTRANCES[room]] == []


# Other packages


def test_search_spaces_know_only_yaml_and_validation() -> None:
    banned = ("torch", "ray", "mlflow", "optuna", "pandas", "diffusers", "transformers", "peft")
    assert offenders(all_imports("search_spaces"), *banned) == []


def test_training_knows_nothing_of_the_study() -> None:
    assert offenders(all_imports("trainables"), "ray", "mlflow", "optuna") == []


@pytest.mark.parametrize("package", USERS)
def test_a_package_is_used_in_few_rooms(package: str) -> None:
    users = [each for each in all_imports("study") if each.is_of(package)]
    assert users
    wrong = [each for each in users if not name_of(each.path).startswith(USERS[package])]
    assert [str(each) for each in wrong] == []


@pytest.mark.parametrize(
    "room", ["storage", "remote", "spec", "tracking", "report", "monitor", "cluster", "ledger"]
)
def test_rooms_that_never_load_torch(room: str) -> None:
    paths = sources(f"study/{room}")
    assert len(paths) > 3
    assert offenders(all_imports(f"study/{room}"), *TORCH) == []
    assert {found for path in paths for found in torch_loaded_with(path)} == set()


def torch_loaded_with(path: Path) -> list[str]:
    """Names the imports of torch that are executed when a file is imported, in it and in the files that it imports."""
    return [
        str(found)
        for other in sorted(loaded_with(path))
        for found in imports(other)
        if found.at_once and found.is_of(*TORCH, "ray.train.torch")
    ]


@pytest.mark.parametrize(
    ("line", "loads"),
    [
        ("import trainables.distributed.fsdp", True),  # imports torch itself
        ("from trainables import models", False),
        ("try:\n    from trainables.models import sampling\nfinally: ...", True),
        ("def f():\n    import trainables.models.backbone", False),
        ("if TYPE_CHECKING:\n    import trainables.models.backbone", False),
        ("if not TYPE_CHECKING:\n    import trainables.models.backbone", True),
    ],
)
def test_torch_would_be_found_behind_other_files(tmp_path: Path, line: str, loads: bool) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert bool(torch_loaded_with(path)) is loads


def test_train_and_tune_are_not_mixed_up() -> None:
    """``ray.train.report`` and ``ray.train.RunConfig`` fail inside Tune (Ray 2.60): few modules have Ray Train."""
    train = ("study/ray_tune/distributed_attempt.py", "study/ray_tune/torch_backend.py")
    others = [each for each in all_imports("study") if name_of(each.path) not in (*train, RAYS_PRIVATE_NAMES)]
    assert offenders(others, "ray.train", "ray.air") == []
    assert offenders(all_imports(*train), "ray.tune", "ray.air") == []


def test_private_names_of_other_packages_are_few_and_listed() -> None:
    wrong = []
    for path in sources(*PACKAGES, "benchmarks", "tests/faults/harness"):
        if name_of(path) in (RAYS_PRIVATE_NAMES, MACHINE_OF_A_DRIVER):
            continue
        listed = PRIVATE.get(name_of(path), set())
        wrong += [
            f"{name_of(path)}:{line} {name}"
            for name, line in private_names(path).items()
            if name not in listed
        ]
    assert wrong == []


@pytest.mark.parametrize("name", PRIVATE)
def test_no_private_name_is_listed_in_vain(name: str) -> None:
    assert PRIVATE[name] - set(private_names(ROOT / name)) == set()


def test_every_private_name_is_looked_for_in_a_test() -> None:
    asserted = " ".join(
        text(ROOT / "tests" / name)
        for name in (
            "study/cluster/test_ray_private.py", "study/ledger/test_optuna_private.py",
            "trainables/test_private_names.py",
        )
    )  # fmt: skip
    names = {name for names in PRIVATE.values() for name in names} - {"_exit"}
    assert (
        names - set(re.findall(r"\w+", asserted)) == set()
    )  # whole names: _private is no part of _private_parts


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import ray\nray.init(_system_config={})", "_system_config"),
        ("import operator\noperator.attrgetter('a._b')(c)", "_b"),
        ("import importlib\nimportlib.import_module('ray._private.worker')", "_private"),
        ("from torch import nn\nnn.x._b\nclass C:\n    def _b(self): ...", "_b"),
        ("def _b(): ...\na._b", "_b"),
        ("delattr(a, '_b')", "_b"),
    ],
)
def test_a_private_name_would_be_found(tmp_path: Path, line: str, name: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert list(private_names(path)) == [name]


@pytest.mark.parametrize(
    "line",
    [
        "class C:\n    _a: int\n    def _b(self): return self._a\n    def __eq__(self, c): return self._b() == c._b()",
        "def f(*, _a): ...\nf(_a=1)",
        "from trainables.x import C\nC(_a=1)",
        "frame.assign(_column=1)",
        "import study.storage\nfrom trainables.x import _a\n__import__('trainables._b')",
    ],
)
def test_a_name_of_ones_own_is_not_taken_for_another(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert private_names(path) == {}


def test_files_are_locked_in_one_way() -> None:
    users = [each for each in all_imports(*PACKAGES) if each.is_of("fcntl")]
    assert {name_of(each.path) for each in users} == {"trainables/util/file_lock.py"}


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


# Names of files in a storage

HOMES = ("study/storage/layout.py", "trainables/events.py")


def names_in(*modules: ModuleType) -> set[str]:
    """Returns the names of files and folders that modules define as constants."""
    return {
        value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"\.?[a-z][a-z_.-]+", value)
    } - {layout.DEFAULT_STORAGE, layout.TUNE_FOLDER, layout.REPORT_IMAGES}  # words that name other things too


# Calls whose arguments are paths or parts of them, whatever they are called on.
TAKES_PATHS = {
    "Path",
    "PurePosixPath",
    "joinpath",
    "join",
    "with_name",
    "glob",
    "rglob",
    "is_relative_to",
    "open",
}


def path_literals(path: Path) -> list[tuple[int, str]]:
    """Returns the parts of literals that name files.

    They are what is joined by ``/`` or by `TAKES_PATHS`, by itself or under a name that the file gives to it, is
    compared with a path's name, has a slash or a suffix or is a piece of an f-string, and the words with a suffix in a
    message.
    """
    tree = ast.parse(text(path))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    operands = [side for node in ast.walk(tree) for side in _path_operands(node)]
    operands += [piece for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for piece in node.values]
    used = {ast.unparse(side) for side in operands if isinstance(side, (ast.Name, ast.Attribute))}
    named = [value for node in ast.walk(tree) for name, value in _named_values(node) if name in used]
    joined = {id(node) for node in (*operands, *named)}
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or id(node) in docs:
            continue
        value = node.value
        if re.search(r"\s", value):
            found += [(node.lineno, word) for word in re.findall(r"[\w-]+\.[a-z]+(?![\w-]|\.\w)", value)]
        elif not value.startswith("/proc/") and (id(node) in joined or "/" in value or "." in value):
            found += [(node.lineno, part) for part in value.split("/") if part]
    return found


def _named_values(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """The names that a node gives to values: by assignment, one by one in a tuple too, or as defaults."""
    if isinstance(node, ast.Assign):
        targets = [(target, node.value) for target in node.targets]
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
        targets = [(node.target, node.value)]
    elif isinstance(node, ast.arguments):
        plain = [*node.posonlyargs, *node.args]
        given = [*zip(plain[len(plain) - len(node.defaults) :], node.defaults, strict=True)]
        given += [(arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
        return [(arg.arg, value) for arg, value in given]
    else:
        return []
    found = []
    for target, value in targets:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            found += [(ast.unparse(one), each) for one, each in zip(target.elts, value.elts, strict=False)]
        else:
            found.append((ast.unparse(target), value))
    return found


def _path_operands(node: ast.AST) -> list[ast.expr]:
    """The expressions that a node takes for paths or for parts of them."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return [node.left, node.right]
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        return node.args if called in TAKES_PATHS and ast.unparse(node.func) != "' '.join" else []
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Attribute) and side.attr in ("name", "stem") for side in sides):
            return [part for side in sides for part in (side.elts if isinstance(side, ast.Tuple) else [side])]
    return []


@pytest.mark.parametrize(
    ("package", "names"), [("study", names_in(layout, events)), ("trainables", names_in(events))]
)
def test_names_of_a_storage_are_spelt_in_two_files(package: str, names: set[str]) -> None:
    """The embedded model has a folder of weights of its own, which is no run's."""
    wrong = [
        f"{name_of(path)}:{line} {part!r}"
        for path in sources(package)
        if name_of(path) not in HOMES and not name_of(path).startswith("trainables/embedded/")
        for line, part in path_literals(path)
        if is_a_name(part, names)
    ]
    assert wrong == []


def is_a_name(part: str, names: set[str]) -> bool:
    """Whether it is one of the names, or begins as one that goes on with a number (``step-00000100``)."""
    return part in names or part.startswith(tuple(name for name in names if name.endswith("-")))


def test_the_names_of_a_storage_are_known() -> None:
    known = {"study.json", "ledger.db", "driver.json", "runs", "lock", "probe", "downloads", "probes",
             "report.html", "tables", "arms.csv", "runs.csv"}  # fmt: skip
    assert known <= names_in(layout, events)
    of_runs = {
        "events.jsonl",
        "result.json",
        "run.json",
        "weights",
        "checkpoint",
        "lock",
        "step-",
        "state.json",
    }
    assert of_runs <= names_in(events)


def test_a_spelt_name_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        '"""runs/x"""\na = b / "runs"\nc = f"{d}/study.json"\ne = f.get("runs")\ng = "a lock/runs is"\n'
        'h = Path("ledger.db").joinpath("probe")\ni = j.name == "lock"\nk = "see result.json."\nl = m == "lock"\n'
    )
    named = ["runs", "study.json", "ledger.db", "probe", "lock", "result.json"]
    assert sorted(part for _, part in path_literals(path)) == sorted(named)


@pytest.mark.parametrize(
    "line",
    [
        'a = "runs"\nb / a',
        'A, B = "lock", "runs"\nc.joinpath(B)',
        'def f(folder, *, name="runs"):\n    return folder / name',
        'class C:\n    def f(self):\n        self.a = "runs"\n        return b / self.a',
        '_STATE = "state.json"',
        'a.glob("step-*[0-9]")',
        'f"{a}step-"',
    ],
)
def test_a_name_that_is_bound_or_begun_would_be_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    names = names_in(layout, events)
    assert [part for _, part in path_literals(path) if is_a_name(part, names)]


# Families of models

# What knows of models only by asking the family. `Backbone` has an autoencoder by that name.
FAMILY_BLIND = ("trainables/methods", "trainables/training", "trainables/evaluation", "trainables/distributed",
                "trainables/run", "trainables/downstream", "trainables/models/sampling.py",
                "trainables/models/solvers.py", "trainables/models/backbone.py", "trainables/models/loading.py",
                "trainables/models/quantization.py")  # fmt: skip


def names_of_families() -> set[str]:
    """Returns the names of pipelines, and of their parts with weights and the classes of these."""
    parts = [part for family in FAMILIES.values() for part in (family.denoiser, *family.text_encoders)]
    return {part.name for part in parts} | {part.model_class for part in parts} | set(FAMILIES)


def is_of_a_family(name: object, names: set[str]) -> bool:
    """Whether a word is one of the names, or a pipeline that is called nearly as one of them.

    Such as ``StableDiffusionXLInpaintPipeline``, beside ``StableDiffusionXLPipeline``.
    """
    if not isinstance(name, str):
        return False
    stems = tuple(each.removesuffix("Pipeline") for each in names if each.endswith("Pipeline"))
    return name in names or (name.endswith("Pipeline") and name.startswith(stems))


def uses_of(path: Path, names: set[str]) -> list[str]:
    """Returns where a file names something: as a text, or a part of a dotted one, an attribute, argument or import.

    What a loop calls each of several things is its own affair, and docstrings may give examples.
    """
    tree = ast.parse(text(path))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        spelt = {
            ast.Constant: lambda node: re.split(r"[./]", node.value) if isinstance(node.value, str) else [],
            ast.Attribute: lambda node: [node.attr],
            ast.keyword: lambda node: [node.arg],
            ast.arg: lambda node: [node.arg],
            ast.ImportFrom: lambda node: [each.name for each in node.names],
        }.get(type(node), lambda node: [])
        if id(node) not in docs:
            used = [name for name in spelt(node) if is_of_a_family(name, names)]
            found += [f"{path.name}:{getattr(node, 'lineno', 0)} {name}" for name in used]
    return found


def test_methods_and_sampling_name_no_part_of_a_family() -> None:
    names = names_of_families()
    assert {"StableDiffusionPipeline", "FluxPipeline", "unet", "transformer", "text_encoder_2"} <= names
    assert {"UNet2DConditionModel", "CLIPTextModel", "FluxTransformer2DModel"} <= names
    paths = [path for path in sources("trainables") if name_of(path).startswith(FAMILY_BLIND)]
    assert len(paths) > 30
    wrong = [use for path in paths for use in uses_of(path, names)]
    assert wrong == []


def test_a_part_that_is_named_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        '"""unet"""\nfrom diffusers import FluxPipeline\na = b.unet\nc = d["unet"]\ne(unet=1)\nf = "a unet"\n'
        'g = "unet.conv_in"\nh = f"unet.{a}"\ndef i(unet): ...\nj = k.FluxInpaintPipeline\nl = m.TestPipeline\n'
        'o = "a/unet"\n'
    )
    lines = sorted(int(re.split("[: ]", use)[1]) for use in uses_of(path, {"unet", "FluxPipeline"}))
    assert lines == [
        2,
        3,
        4,
        5,
        7,
        8,
        9,
        10,
        12,
    ]  # not the docstring, nor a text in which it is one word of several


# Tests and benchmarks


# The command that injects faults stays where the other commands are; the harness that it starts is the tests'.
STARTS_THE_TESTS_HARNESS = "benchmarks/faults.py"


def test_benchmarks_import_no_tests() -> None:
    found = all_imports("benchmarks")
    others = [each for each in found if name_of(each.path) != STARTS_THE_TESTS_HARNESS]
    assert offenders(others, "tests") == []
    started = [
        each for each in found if name_of(each.path) == STARTS_THE_TESTS_HARNESS and each.is_of("tests")
    ]
    assert {each.module for each in started} == {"tests.faults.harness"}


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ('importlib.import_module("tests.x")', "tests.x"),
        ('import_module("ray._private.worker")', "ray._private.worker"),
        ('__import__("torch")', "torch"),
        ('runpy.run_module("tests.faults", run_name="__main__")', "tests.faults"),
        ('pytest_plugins = ["tests.x"]', "tests.x"),
        ('pytest_plugins = "tests.x"', "tests.x"),
        ('importlib.import_module(f"benchmarks.{name}")', "benchmarks"),
        ("def f():\n    from tests.helpers import imports", "tests.helpers.imports"),
    ],
)
def test_an_import_would_be_found(tmp_path: Path, line: str, module: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert [each.module for each in imports(path)] == [module]


def test_tests_import_no_other_test() -> None:
    wrong = [
        str(each)
        for each in all_imports("tests")
        if each.is_of("tests") and re.search(r"\.(test_\w+|conftest)$", each.module)
    ]
    assert wrong == []


# Sizes and safety


def test_files_and_functions_stay_small() -> None:
    long = []
    for path in sources(*PACKAGES):
        if text(path).count("\n") > MAX_FILE_LINES:
            long.append(f"{name_of(path)}: {text(path).count(chr(10))} lines")
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines")
    assert long == []


def test_nothing_reads_pickles() -> None:
    """Nothing from storage may be unpickled: safetensors and JSON, or torch's loader that refuses code."""
    assert offenders(all_imports(*PACKAGES), "pickle", "cloudpickle", "dill", "joblib") == []
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{name_of(path)}:{node.lineno}"
