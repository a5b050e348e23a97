"""`study submit` against a real cluster with a dashboard behind a token; what it refuses, and what it takes along."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks.support.ports import free_ports
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import INPUTS
from study.submit.package import INPUTS_FILE, STUDY_FILE, build_package, unpack
from study.submit.submit import Submission, entrypoint, submit_study
from tests.helpers.ray_head import DEADLINE, ROOT, Head, ray_head, user_environment
from tests.helpers.waiting import wait_for
from trainables.errors import UserError

BASE_ONLY: dict[str, Any] = {
    "name": "submitted",
    "subjects": [
        "cat-1",
        {"name": "mug", "images": "photos", "instance_prompt": "a sks mug", "class_prompt": "a mug"},
    ],
    "arms": {"base": {"method": "base"}},
    "search": {"subjects": ["cat-1"]},
    "confirm": {"subjects": ["mug"], "seeds": [100]},
    "budget": {"max_train_steps": 2},
    "evaluation": {
        "at": [],
        "images_per_prompt": 1,
        "num_inference_steps": 2,
        "anchor_images": 2,
        "prompts": ["{subject}", "{subject} on a beach"],
    },
}


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study of the base model alone, on an embedded subject and on photographs of its own."""
    folder = tmp_path / "mine"
    (folder / "photos").mkdir(parents=True)
    for index in range(4):
        Image.effect_noise((96, 96), 20 + 20 * index).convert("RGB").save(folder / "photos" / f"{index}.png")
    (folder / "photos" / ".hidden").write_text("not for others")
    (folder / "study.yaml").write_text(yaml.safe_dump(BASE_ONLY))
    return folder / "study.yaml"


def refused(file: Path, asked: Submission, address: str = "http://127.0.0.1:8265", *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        submit_study(str(file), list(overrides), asked, address=address, say=lambda _: None)
    return "\n".join(error.value.problems)


# ---------------------------------------------------------------------- what goes along


def test_photographs_get_a_lasting_place_that_their_content_names(study_file: Path, tmp_path: Path) -> None:
    spec = load_study(study_file)
    package = build_package(spec, _empty(tmp_path, "one"), inputs="/mnt/study/inputs", code=False)
    place = package.shipped[str(study_file.parent / "photos")]
    assert place.startswith("/mnt/study/inputs/")
    assert place.endswith("-photos")
    sent = load_study(package.folder / STUDY_FILE)
    assert sent.subject("mug").images == place
    assert sent.digest() == package.spec.digest()
    names = {path.name for path in (package.folder / INPUTS / Path(place).name).iterdir()}
    assert names == {f"{index}.png" for index in range(4)}
    # The same photographs from another folder are the same study; others are another.
    (study_file.parent / "photos").rename(study_file.parent / "aside")
    (study_file.parent / "aside").rename(study_file.parent / "photos")
    again = build_package(
        load_study(study_file), _empty(tmp_path, "two"), inputs="/mnt/study/inputs", code=False
    )
    assert again.spec.digest() == package.spec.digest()
    Image.new("RGB", (96, 96)).save(study_file.parent / "photos" / "0.png")
    other = build_package(
        load_study(study_file), _empty(tmp_path, "three"), inputs="/mnt/study/inputs", code=False
    )
    assert other.spec.digest() != package.spec.digest()


def test_every_folder_that_a_study_names_goes_along(study_file: Path, tmp_path: Path) -> None:
    """Masks, and the configurations of a model in one file; the file itself does not."""
    folder = study_file.parent
    for name in ("masks", "configs"):
        (folder / name).mkdir()
        (folder / name / "one").write_text(name)
    (folder / "model.safetensors").write_bytes(b"x")
    content = yaml.safe_load(study_file.read_text())
    content["subjects"][1]["masks"] = "masks"
    content["model"] = {"path": str(folder / "model.safetensors"), "config": str(folder / "configs")}
    study_file.write_text(yaml.safe_dump(content))
    package = build_package(load_study(study_file), _empty(tmp_path, "one"), inputs="/mnt/inputs", code=False)
    assert set(package.shipped) == {str(folder / name) for name in ("photos", "masks", "configs")}
    assert package.spec.subject("mug").masks == package.shipped[str(folder / "masks")]
    assert package.spec.model.config == package.shipped[str(folder / "configs")]
    assert package.spec.model.path == str(folder / "model.safetensors")


def test_unpacking_twice_or_after_a_crash_is_harmless(study_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "shared" / "inputs"
    package = build_package(load_study(study_file), _empty(tmp_path, "one"), inputs=str(target), code=False)
    name = Path(next(iter(package.shipped.values()))).name
    (target / f".{name}.1").mkdir(parents=True)  # a copy that was broken off
    unpack(package.folder)
    unpack(package.folder)
    assert len(list((target / name).iterdir())) == 4
    assert json.loads((package.folder / INPUTS_FILE).read_text()) == {"inputs": str(target)}


def test_code_goes_along_whole_and_alone(study_file: Path, tmp_path: Path) -> None:
    package = build_package(load_study(study_file), _empty(tmp_path, "one"), inputs="/mnt/study/inputs")
    assert {path.name for path in package.folder.iterdir()} == {
        STUDY_FILE, INPUTS_FILE, INPUTS, "search_spaces", "study", "trainables",
    }  # fmt: skip
    assert not list(package.folder.rglob("__pycache__"))
    assert (package.folder / "trainables" / "embedded" / "weights").is_dir()


def test_a_model_that_is_too_large_is_refused_with_the_way_out(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.submit.package.MAX_BYTES", 1000)
    spec = load_study(study_file)
    with pytest.raises(
        UserError, match=r"most of it .*/photos .*put the folder where all nodes see it.*--shared"
    ):
        build_package(spec, _empty(tmp_path, "one"), inputs="/mnt/study/inputs")
    # What the cluster sees under the same path is not shipped at all.
    package = build_package(
        spec, _empty(tmp_path, "two"), inputs="/x", shared=[str(study_file.parent)], code=False
    )
    assert package.shipped == {}
    assert package.spec == spec


def _empty(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Submission(""), "--storage is missing"),
        (Submission("storage"), "--storage storage would lie in the job's own folder"),
        (Submission("/tmp/ray/x"), "is a node's own folder"),
        (Submission("s3://key:secret@bucket/x"), "--storage s3://bucket/x holds a password"),
        (Submission("/mnt/x", reports="reports"), "--reports reports would lie in the job's own folder"),
        (Submission("/mnt/x", tracking_uri="http://me:secret@mlflow:5000"), "--tracking-uri http://mlflow:5000 holds"),
        (Submission("/mnt/x", tracking_uri="http://127.0.0.1:5000"), "means the head itself"),
    ],
)  # fmt: skip
def test_what_would_be_lost_or_seen_by_others(asked: Submission, message: str, study_file: Path) -> None:
    text = refused(study_file, asked)
    assert message in text
    assert "secret" not in text


def test_all_mistakes_are_told_at_once(study_file: Path) -> None:
    (study_file.parent / "photos" / "0.png").write_text("no picture")
    text = refused(study_file, Submission("here"), "head:6379")
    for part in ("--storage here", "0.png", "got 'head:6379'"):
        assert part in text
    url = "postgresql://study:hunter2@db/ledger"
    text = refused(study_file, Submission("here"), "head:6379", f"storage.ledger_url={url}")
    for part in ("--storage here", "(storage.ledger_url): has a password in it", "got 'head:6379'"):
        assert part in text
    assert "hunter2" not in text


def test_no_dashboard(study_file: Path) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    text = refused(study_file, Submission("/mnt/study"), address)
    assert f"no dashboard answers at {address} (connection refused); make a tunnel (`ray dashboard" in text


def test_the_entrypoint_names_lasting_places_only() -> None:
    assert entrypoint(Submission("/mnt/a b")).endswith("--storage '/mnt/a b' --reports '/mnt/a b/reports'")
    assert entrypoint(Submission("s3://b/x")).endswith("--storage s3://b/x --no-report")


def test_a_ctrl_c_is_taken_whatever_the_connection_makes_of_it() -> None:
    from study.submit.submit import _interrupted

    async def deaf() -> None:
        """As a library that takes every exception for a broken connection."""
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        with contextlib.suppress(BaseException):
            await asyncio.sleep(60)

    assert asyncio.run(_interrupted(deaf()))
    assert not asyncio.run(_interrupted(asyncio.sleep(0.0)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---------------------------------------------------------------------- a real cluster


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(dashboard=True) as running:
        yield running


def submit(head: Head, file: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "study.cli",
        "submit",
        str(file),
        "--address",
        head.dashboard,
        *words,
    ]
    environment = {
        **head.environment,
        "HF_HUB_OFFLINE": "1",
        "AWS_SECRET_ACCESS_KEY": "not-for-others",
        **more,
    }
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )


def api(head: Head, path: str) -> Any:
    import urllib.request

    request = urllib.request.Request(head.dashboard + path, headers={"Authorization": f"Bearer {head.token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_a_study_runs_on_the_cluster_and_its_exit_code_comes_back(
    head: Head, study_file: Path, tmp_path: Path
) -> None:
    """The same study three times: its user lets go of it, looks at it, and changes it."""
    storage = tmp_path / "shared"
    process = submit(head, study_file, "--storage", str(storage))
    assert process.stderr is not None
    told = ""
    while not (line := process.stderr.readline()).startswith("submitted: "):
        assert process.poll() is None, told
        told += line
    assert "shipped: " in told
    wait_for(lambda: [job["status"] for job in api(head, "/api/jobs/")] == ["RUNNING"], DEADLINE)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, out + err
    assert "which goes on" in err
    assert "Traceback" not in err
    (job,) = ended_jobs(head)
    assert job["status"] == "SUCCEEDED", (job, api(head, f"/api/jobs/{job['submission_id']}/logs"))
    results = [json.loads(path.read_text()) for path in storage.glob("submitted/runs/*/*/*/result.json")]
    assert [result["state"] for result in results] == ["COMPLETE"]
    assert (storage / "reports" / "submitted" / "report.html").exists()
    stored = StudySpec.from_record(json.loads((storage / "submitted" / "study.json").read_text()))
    assert str(stored.subject("mug").images).startswith(str(storage / "inputs"))
    # Handed over again it is the same study, and nothing is left to do.
    process = submit(head, study_file, "--storage", str(storage))
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, out + err
    assert "report: " in out, "the log is streamed"
    assert "INFO" not in err
    jobs = json.dumps(api(head, "/api/jobs/"))
    assert "not-for-others" not in jobs
    assert head.token not in jobs + out + err + told
    # A change of the study is the user's mistake, there as here.
    process = submit(head, study_file, "budget.max_train_steps=3", "--storage", str(storage))
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2, out + err
    assert "has changed since it was begun" in " ".join(out.split())
    # Nobody needs to wait for the end.
    process = submit(head, study_file, "--storage", str(storage), "--no-wait")
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (0, ""), err
    assert "ray job stop study-submitted-" in err


def ended_jobs(head: Head) -> list[dict[str, Any]]:
    """Waits until no job is left to work on; returns what is known of them."""
    wait_for(
        lambda: not {"PENDING", "RUNNING"} & {job["status"] for job in api(head, "/api/jobs/")}, DEADLINE
    )
    found: list[dict[str, Any]] = api(head, "/api/jobs/")
    return found


WHERE = """
import ray
import study

@ray.remote(num_cpus=0)
def there():
    import study
    return study.__file__

ray.init(log_to_driver=False)
print("FOUND", study.__file__, ray.get(there.remote()))
"""


@pytest.mark.slow
def test_driver_and_workers_use_the_code_that_came_along(
    head: Head, study_file: Path, tmp_path: Path
) -> None:
    """Whatever the image has: the cluster runs the code of whoever submits."""
    package = build_package(
        load_study(study_file), _empty(tmp_path, "package"), inputs=str(tmp_path / "inputs")
    )
    (package.folder / "where.py").write_text(WHERE)
    code = f"""
import time
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient({head.dashboard!r})
job = client.submit_job(entrypoint="python where.py", runtime_env={{"working_dir": {str(package.folder)!r}}})
while not client.get_job_status(job).is_terminal():
    time.sleep(0.5)
print(client.get_job_logs(job))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=head.environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert "FOUND" in done.stdout, done.stdout + done.stderr
    driver, worker = done.stdout.split("FOUND ")[1].split()[:2]
    assert "/runtime_resources/" in driver
    assert driver == worker


@pytest.mark.slow
def test_a_wrong_token_and_none(head: Head, study_file: Path, tmp_path: Path) -> None:
    home = tmp_path / "stranger"
    home.mkdir()
    stranger = Head(head.address, head.dashboard, home, user_environment(home))
    without = submit(stranger, study_file, "--storage", "/mnt/study")
    process = submit(stranger, study_file, "--storage", "/mnt/study", RAY_AUTH_TOKEN="0" * 64)
    out, err = without.communicate(timeout=DEADLINE)
    assert "asks for a token, and none was shown" in " ".join(err.split()), err
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "does not take our token" in " ".join(err.split())
    assert "0" * 64 not in out + err
    assert "Traceback" not in err
