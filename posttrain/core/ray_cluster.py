"""The connection to a Ray cluster, an optional extra: made in bounded time, or refused with what to do."""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import dataclass

from posttrain.core.errors import ClusterError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
except ImportError as error:
    raise ClusterError(
        "Ray is not installed - needed by execution.kind ray and by --ray - run: pip install 'posttrain[ray]'"
    ) from error

# Nothing listens there: told at once. Something listens that is no Ray cluster: told after this long.
PROBE_SECONDS = 10.0
CONNECT_SECONDS = 60.0


@dataclass(frozen=True)
class Node:
    """Name a machine of the cluster that is alive; `address` is for people."""

    node_id: str
    address: str
    num_cpus: float
    num_gpus: float


def connect(address: str, timeout_seconds: float = CONNECT_SECONDS) -> bool:
    """Connect this process to a cluster; a connection that is there already is used as it is.

    Args:
        address: "auto" (the cluster of this machine), "host:port" of its head, or "ray://host:port".

    Returns:
        Whether the connection was made here, so that whoever called ends it with `disconnect`.

    Raises:
        ClusterError: there is no cluster at this address, it does not answer, or runs another version.
    """
    if ray.is_initialized():
        return False
    if address != "auto":
        _probe(address)
    # Ray itself waits for a head that does not answer without end, hence a thread that can be left alone.
    failures: list[Exception] = []
    thread = threading.Thread(target=_init, args=(address, failures), daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if thread.is_alive():
        raise ClusterError(
            f"the Ray cluster at {address} does not answer after {timeout_seconds:.0f} s - give the address of the "
            "head (host:6379 unless `ray start --head --port` said otherwise), as `ray status` on the head shows it"
        )
    if failures:
        raise ClusterError(
            f"no connection to a Ray cluster at {address}: {first_line(failures[0])} - start one with "
            "`ray start --head`, or give another address; driver and nodes need the same versions of Ray and Python"
        ) from failures[0]
    return True


def disconnect() -> None:
    """End the connection; workers that this process started end with it."""
    ray.shutdown()


def alive_nodes() -> list[Node]:
    """List the machines of the cluster that are alive, in a fixed order."""
    nodes = [
        Node(node["NodeID"], node["NodeManagerAddress"], resources.get("CPU", 0.0), resources.get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
        for resources in [node["Resources"]]
    ]
    return sorted(nodes, key=lambda node: node.node_id)


def cluster_device(device: str) -> str:
    """Return the device of a worker: "auto" is an accelerator where the cluster has one.

    Ray gives each worker an accelerator of its own, so that a number as in "cuda:1" has no meaning there.
    """
    if device == "auto":
        return "cuda" if any(node.num_gpus for node in alive_nodes()) else "cpu"
    return "cuda" if device.startswith("cuda") else device


def first_line(error: Exception) -> str:
    """Return what an error of Ray says, without the pages of advice that follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("The actor is dead") or "node has died" in line), None)
    return (told or (lines[0] if lines else type(error).__name__))[:300]


def _probe(address: str) -> None:
    """Refuse an address that is none, or at which nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"'{address}' is no address of a Ray cluster - write auto, host:port or ray://host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at {address} ({error}) - start a Ray cluster there with `ray start --head`, or give the "
            "address of another"
        ) from error


def _init(address: str, failures: list[Exception]) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # carried to the thread that waits, which says what to do
        failures.append(error)
