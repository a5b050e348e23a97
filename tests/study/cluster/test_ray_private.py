"""The installed Ray has every private name that the study uses, and what is borrowed is given back."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import ray
from ray.tune.execution.tune_controller import TuneController

from study.cluster import ray_private
from study.cluster.ray_cluster import cluster
from study.lint import ray_up
from tests.helpers.private_names import has, private_names

NAMES = (
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
    "ray._private.ray_constants:DASHBOARD_ADDRESS",
    "ray._private.ray_constants:KV_NAMESPACE_DASHBOARD",
    "ray.experimental.internal_kv:_internal_kv_get",
    "ray._private.services:ConsolePopen",
    "ray._private.services:canonicalize_bootstrap_address",
    "ray._private.services:find_node_ids",
    "ray._private.node:Node.start_api_server",
    "ray._private.node:Node.start_monitor",
    "ray._private.node:Node.start_log_monitor",
    "ray._private.node:Node.dead_processes",
    "ray._private.worker:_global_node",
    "ray._private.worker:print_to_stdstream",
    "ray._private.worker:get_dashboard_url",
    "ray._private.state:state.get_draining_nodes",
    "ray._private.state:GlobalState._initialize_global_state",
    "ray._private.internal_api:get_memory_info_reply",
    "ray._raylet:GcsClientOptions.create",
    "ray._private.utils:get_entrypoint_name",
    "ray._private.grpc_utils:init_grpc_channel",
    "ray.core.generated.gcs_service_pb2:InternalKVGetRequest",
    "ray.core.generated.gcs_service_pb2:GetAllNodeInfoRequest",
    "ray.core.generated.gcs_service_pb2_grpc:InternalKVGcsServiceStub",
    "ray.core.generated.gcs_service_pb2_grpc:NodeInfoGcsServiceStub",
    "ray._raylet:AuthenticationTokenLoader.instance",
    "ray._raylet:Config.initialize",
    "ray.job_config:JobConfig._get_proto_job_config",
    "ray.job_config:JobConfig._runtime_env_has_working_dir",
    "ray.job_config:JobConfig._py_driver_sys_path",
    "ray.train.torch.config:_TorchBackend.on_start",
    "ray.train.torch.config:_set_torch_distributed_env_vars",
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
    "ray.train.v2.api.data_parallel_trainer:PlacementGroupCleanerCallback",
    "ray.tune.execution.tune_controller:TrialRunnerWrapper._tune_controller",
    "ray.tune.execution.tune_controller:TuneController._pending_trials_list",
    "ray.tune.execution.tune_controller:TuneController._trial_to_actor",
    "ray.tune.execution.tune_controller:TuneController._actor_manager",
    "ray.tune.execution.tune_controller:TuneController._resetting_trials",
    "ray.air.execution._internal.actor_manager:RayActorManager.is_actor_started",
    "ray.autoscaler._private.kuberay.autoscaling_config:_derive_autoscaling_config_from_ray_cr",
    "ray.autoscaler._private.util:prepare_config",
    "ray.autoscaler._private.util:validate_config",
)
OF_INIT = ("_node_ip_address", "_temp_dir")


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_ray_has_it(name: str) -> None:
    assert has(name)


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert not has("ray._private.services:no_such_name")
    assert not has("ray.tune.execution.tune_controller:TuneController._no_such_list")


def test_init_takes_the_private_settings() -> None:
    from ray._private.worker import init

    text = inspect.getsource(init)
    for name in OF_INIT:
        assert f'"{name}"' in text or name in inspect.signature(init).parameters, name


@pytest.mark.parametrize("module", [ray_private, ray_up])
def test_every_private_name_that_is_used_is_tested_here(module: object) -> None:
    tested = {part for name in NAMES for part in re.split(r"[.:]", name)} | set(OF_INIT)
    used = private_names(Path(inspect.getfile(module)))  # type: ignore[arg-type]
    assert used
    assert {name: line for name, line in used.items() if name not in tested} == {}


@pytest.mark.parametrize(
    ("borrow", "module", "name"),
    [
        (ray_private.nodes_on_loopback, "ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
        (ray_private.sound_entrypoint, "ray._private.utils", "get_entrypoint_name"),
        (lambda: ray_private.daemons_without({"A"}), "ray._private.services", "ConsolePopen"),
        (lambda: ray_private.needed_daemons(False), "ray._private.node:Node", "start_monitor"),
    ],
)
def test_what_is_replaced_is_put_back(
    borrow: Callable[[], AbstractContextManager[None]], module: str, name: str
) -> None:
    where, _, inner = module.partition(":")
    holder = importlib.import_module(where)
    holder = getattr(holder, inner) if inner else holder
    before = getattr(holder, name)
    with contextlib.suppress(ZeroDivisionError), borrow():
        assert getattr(holder, name) is not before
        raise ZeroDivisionError
    assert getattr(holder, name) is before


def test_daemons_with_a_dashboard_are_all_started() -> None:
    from ray._private.node import Node

    before = Node.start_monitor
    with ray_private.needed_daemons(True):
        assert Node.start_monitor is before


def test_daemons_do_not_get_the_drivers_secrets() -> None:
    from ray._private import services

    with ray_private.daemons_without({"SECRET"}):
        process = services.ConsolePopen(
            ["/usr/bin/env"], env={"SECRET": "geheim", "OTHER": "kept"}, stdout=-1, text=True
        )
        said, _ = process.communicate()
    assert "geheim" not in said
    assert "OTHER=kept" in said


def test_the_entrypoint_is_always_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import utils

    monkeypatch.setattr(utils, "get_entrypoint_name", lambda: "study launch caf\udce9.yaml")
    with ray_private.sound_entrypoint():
        assert utils.get_entrypoint_name() == "study launch caf\\udce9.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("dashboard", [False, True])
def test_only_a_cluster_with_a_dashboard_has_rays_guard_of_placement_groups(dashboard: bool) -> None:
    """Without one each run of several workers would wait twelve seconds at its end."""

    @ray.remote
    def callbacks() -> set[str]:  # in a worker, as the trainer is made
        trainer = ray_private.torch_trainer_class()(print)
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    with cluster(cpus=1, dashboard=dashboard):
        names = ray.get(callbacks.remote())
    assert "BackendSetupCallback" in names
    assert ("PlacementGroupCleanerCallback" in names) is dashboard


def test_workers_import_from_the_folders_that_are_named() -> None:
    job = ray_private.job_importing_from(["/a", "/b"])
    job._get_proto_job_config()
    assert job._py_driver_sys_path == ["/a", "/b"]


def test_without_a_cluster_nothing_is_known() -> None:
    assert ray_private.dead_processes() == []
    assert ray_private.draining_nodes() == frozenset()


class _Trial:
    def __init__(self, name: str) -> None:
        self.name = name


def test_trials_that_wait_are_told_from_those_that_start() -> None:
    first, second, third = _Trial("a"), _Trial("b"), _Trial("c")
    controller = TuneController.__new__(TuneController)
    controller._pending_trials_list = [first, second, third]
    controller._trial_to_actor = {first: "started", second: "not yet"}
    controller._resetting_trials = {second}
    controller._actor_manager = type(
        "Manager", (), {"is_actor_started": staticmethod(lambda a: a == "started")}
    )()
    wrapper = type("Wrapper", (), {"_tune_controller": controller})()
    assert list(ray_private.pending_trials(wrapper)) == [(first, True), (second, False), (third, False)]
    ray_private.forget_reset(controller, second)
    assert controller._resetting_trials == set()
    ray_private.forget_reset(object(), second)
