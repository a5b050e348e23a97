"""The compose file of the servers: pinned, closed, and of one piece with its example of secrets and its script."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from tests.helpers.postgres_server import USER, binaries, postgres, reason_to_skip

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SECRETS = ("PASSWORD", "SECRET_KEY")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def example() -> dict[str, str]:
    lines = [line for line in (DEPLOY / ".env.example").read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def constraint(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def test_versions_are_pinned_to_the_project_s(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", services["database"]["image"])
    recipe = services["mlflow"]["build"]["dockerfile_inline"]
    assert f"mlflow[auth]=={constraint('mlflow')}" in recipe
    assert f"psycopg2-binary=={constraint('psycopg2-binary')}" in recipe
    assert services["mlflow"]["image"].endswith(f":{constraint('mlflow')}")
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim", recipe, re.MULTILINE)
    assert "USER mlflow" in recipe


def test_ports_are_published_on_one_address_that_is_loopback_by_default(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports == ["${ADDRESS:-127.0.0.1}:5432:5432", "${ADDRESS:-127.0.0.1}:5000:5000"]
    assert example()["ADDRESS"] == "127.0.0.1"
    assert all("network_mode" not in service for service in compose["services"].values())


def test_no_secret_stands_in_it_nor_on_a_command_line(compose: dict[str, Any]) -> None:
    wanted = set()
    for service in compose["services"].values():
        assert not any(word in str(service.get("command", "")) for word in SECRETS)
        for name, value in service["environment"].items():
            if any(word in name for word in SECRETS):
                found = re.fullmatch(
                    r"\$\{(\w+):\?write deploy/\.env\}", value
                )  # missing: compose refuses to start
                assert found, name
                wanted.add(found.group(1))
            assert not re.search(r"//[^/@]*:[^/@]*@", value), f"{name} has a password in its URL"
    given = example()
    assert wanted == {name for name, value in given.items() if value == ""}
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=ROOT)
    assert ignored.returncode in (0, 128)  # 128: not a checkout


def test_the_mlflow_server_is_behind_a_password_and_checks_hosts(compose: dict[str, Any]) -> None:
    service = compose["services"]["mlflow"]
    assert "--app-name=basic-auth" in service["command"]
    assert "--allowed-hosts=${MLFLOW_HOSTS:-localhost:*,127.0.0.1:*}" in service["command"]
    assert "*" not in example()["MLFLOW_HOSTS"].replace(":*", "").split(",")
    (config,) = (item for item in service["configs"] if item["source"] == "basic_auth")
    assert service["environment"]["MLFLOW_AUTH_CONFIG_PATH"] == config["target"]
    ini = configparser.ConfigParser()
    ini.read_string(compose["configs"]["basic_auth"]["content"])
    assert ini["mlflow"]["database_uri"].startswith("postgresql+psycopg2://mlflow@database/")
    assert "admin_password" not in ini["mlflow"]


def test_data_outlives_the_containers_and_health_is_watched(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
    named = {
        volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]
    }
    assert set(compose["volumes"]) <= named
    assert compose["services"]["mlflow"]["depends_on"] == {"database": {"condition": "service_healthy"}}


def test_the_script_makes_databases_that_do_not_see_each_other() -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with postgres() as server:
        place = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "POSTGRES_USER": USER}
        secrets = {"LEDGER_PASSWORD": "l'p@ss\"word", "MLFLOW_DATABASE_PASSWORD": "$m; drop"}
        path = {"PATH": f"{binaries()}{os.pathsep}{os.environ['PATH']}"}
        words = ["sh", str(DEPLOY / "databases.sh")]
        done = subprocess.run(
            words,
            env={**os.environ, **path, **server.environment, **place, **secrets},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for user, password, databases in (
            ("ledger", "l'p@ss\"word", ("ledger",)),
            ("mlflow", "$m; drop", ("mlflow", "mlflow_auth")),
        ):
            for database in ("ledger", "mlflow", "mlflow_auth"):
                arguments = {"host": "127.0.0.1", "port": server.port, "user": user, "dbname": database}
                if database in databases:
                    connection = psycopg2.connect(**arguments, password=password)
                    connection.cursor().execute("create table mine (a int)")
                    connection.close()
                else:
                    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                        psycopg2.connect(**arguments, password=password)
