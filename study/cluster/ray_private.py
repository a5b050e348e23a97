"""What the study needs of Ray that Ray does not promise: the one module that touches its private names.

Another release of Ray may move or drop any of them; tests/study/cluster/test_ray_private.py says which are there.
(`study.lint.ray_up` borrows Ray's validation of cluster files by itself: the lint needs no cluster.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ALIVE = 0  # a node's state in Ray's protocol
_METADATA = (b"CLUSTER_METADATA", b"cluster")  # key and namespace of the versions in the head's store
_DASHBOARDS_DAEMONS = ("start_api_server", "start_monitor", "start_log_monitor")


# A cluster of this machine


def start_on_loopback(folder: str, **settings: Any) -> None:
    """Calls ``ray.init`` for a cluster of this machine: on loopback, with its files in a folder."""
    import ray

    ray.init(address="local", _node_ip_address="127.0.0.1", _temp_dir=folder, **settings)


@contextlib.contextmanager
def nodes_on_loopback() -> Iterator[None]:
    """Ray decides at its import whether nodes may lie on loopback; it may have been imported long ago."""
    import ray._private.ray_constants as constants

    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        reread_settings()
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def daemons_without(names: Collection[str]) -> Iterator[None]:
    """Starts Ray's processes without some environment variables, which stay in this process meanwhile."""
    from ray._private import services

    popen = services.ConsolePopen

    class WithoutVariables(popen):  # type: ignore[valid-type, misc]
        def __init__(self, *words: Any, env: Mapping[str, str], **named: Any) -> None:
            kept = {name: value for name, value in env.items() if name not in names}
            super().__init__(*words, env=kept, **named)

    services.ConsolePopen = WithoutVariables
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def needed_daemons(dashboard: bool) -> Iterator[None]:
    """Starts none of Ray's processes that serve a dashboard, an autoscaler or a terminal, if there is none of them.

    Ray starts them in any case, and waits for one: seconds of every launch, and a hundred MiB each. A Ray that names
    them otherwise starts them as before.
    """
    from ray._private.node import Node

    def nothing(*_: Any, **__: Any) -> None:
        pass

    unused = () if dashboard else _DASHBOARDS_DAEMONS
    before = {name: getattr(Node, name) for name in unused if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def dead_processes() -> list[str]:
    """Returns the names of the processes of a cluster of this machine that have ended."""
    import ray

    node = ray._private.worker._global_node
    return [] if node is None else [name for name, _ in node.dead_processes()]


# What this process says to Ray


def reread_settings() -> None:
    """Makes Ray, which reads its settings and its token once a process, read those that are in force now."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def silence_daemons() -> None:
    """Keeps Ray from printing what its daemons say of dead workers."""
    import ray

    ray._private.worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def sound_entrypoint() -> Iterator[None]:
    """Lets Ray, which keeps the driver's command line and aborts over one that is not UTF-8, see it escaped."""
    from ray._private import utils

    name = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: name().encode("utf-8", "backslashreplace").decode()
    try:
        yield
    finally:
        utils.get_entrypoint_name = name


def job_importing_from(folders: Sequence[str]) -> Any:
    """Returns the settings of a job whose workers import from these folders.

    Ray would let them look first in the folder of the driver's script, and in the one that it was started in.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _get_proto_job_config(self) -> Any:
            sent_along = (
                self._runtime_env_has_working_dir()
            )  # as by `study submit`: workers have it from there
            self._py_driver_sys_path = [] if sent_along else list(folders)
            return super()._get_proto_job_config()

    return Job()


# What Ray knows of clusters and nodes


@dataclass(frozen=True)
class HeadAnswer:
    """What a cluster's head says.

    Attributes:
        metadata: Versions of Ray and Python, as JSON.
        alive: Ids of the nodes that are alive.
    """

    metadata: bytes
    alive: frozenset[str]


def ask_head(target: str, seconds: float) -> HeadAnswer:
    """Asks the head at ``host:port`` directly, with the settings in force.

    Raises:
        ImportError: There is no grpc here (the extra ``cluster``).
        ray.exceptions.AuthenticationError: It wants a token, and there is none here.
        grpc.RpcError: It does not answer, or refuses.
    """
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with contextlib.closing(init_grpc_channel(target)) as channel:
        store = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        key, namespace = _METADATA
        question = gcs_service_pb2.InternalKVGetRequest(key=key, namespace=namespace)
        metadata = store.InternalKVGet(question, timeout=seconds).value
        service = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        nodes = service.GetAllNodeInfo(
            gcs_service_pb2.GetAllNodeInfoRequest(), timeout=seconds
        ).node_info_list
    return HeadAnswer(metadata, frozenset(node.node_id.hex() for node in nodes if node.state == _ALIVE))


def address_of_auto() -> str | None:
    """Returns the address that Ray would take for ``auto``, or None."""
    from ray._private import services

    with contextlib.suppress(Exception):
        found: str | None = services.canonicalize_bootstrap_address("auto")
        return found
    return None


def node_ids_here() -> frozenset[str]:
    """Returns the ids of the Ray nodes whose processes run on this machine."""
    from ray._private import services

    return frozenset(services.find_node_ids())


def dashboard_address() -> str:
    """Returns where the dashboard of the joined cluster listens, by the cluster's own word; empty without one."""
    import ray

    return str(ray._private.worker.get_dashboard_url() or "")


def draining_nodes() -> frozenset[str]:
    """Returns the ids of the nodes that have been announced to be taken away."""
    import ray

    with contextlib.suppress(Exception):  # Ray's control service is away
        return frozenset(ray._private.state.state.get_draining_nodes())
    return frozenset()


# Ray Train and Ray Tune


def torch_backend_class() -> Any:
    """Returns the class by which Ray Train sets torch's process group up."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend


def torch_variables_setter() -> Any:
    """Returns the function by which Ray Train sets torch's environment variables, for a worker to call."""
    from ray.train.torch.config import _set_torch_distributed_env_vars

    return _set_torch_distributed_env_vars


def torch_trainer_class() -> Any:
    """Returns Ray Train's trainer, without its guard of placement groups where that cannot work.

    The guard asks the cluster's dashboard whether the trainer's controller lives. In a cluster that has none it never
    learns it, and every run waits twelve seconds at its end for the guard to give up asking. The study removes the
    placement groups of dead workers itself (`study.ray_tune.placement`), in all clusters.
    """
    from ray.train.torch import TorchTrainer

    class Unguarded(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [each for each in callbacks if type(each).__name__ != "PlacementGroupCleanerCallback"]

    return TorchTrainer if _has_dashboard() else Unguarded


def _has_dashboard() -> bool:
    """Whether the cluster has a dashboard, by its own store; workers are told an address in any case."""
    from ray._private import ray_constants
    from ray.experimental.internal_kv import _internal_kv_get

    with contextlib.suppress(Exception):  # a store that does not answer says nothing of a dashboard
        key, namespace = ray_constants.DASHBOARD_ADDRESS, ray_constants.KV_NAMESPACE_DASHBOARD
        return _internal_kv_get(key, namespace=namespace) is not None
    return True


def pending_trials(tune_controller: Any) -> Iterator[tuple[Any, bool]]:
    """Yields Tune's trials that wait, the oldest first, each with whether an actor of its own has started."""
    controller = tune_controller._tune_controller
    for trial in controller._pending_trials_list:
        actor = controller._trial_to_actor.get(trial)
        yield trial, actor is not None and controller._actor_manager.is_actor_started(actor)


def forget_reset(tune_controller: Any, trial: Any) -> None:
    """Lets Tune forget that it was resetting the actor of a trial."""
    resetting = getattr(tune_controller, "_resetting_trials", None)
    if resetting is not None:
        resetting.discard(trial)
