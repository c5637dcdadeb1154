"""Warm processes on the machines of a Ray cluster, or of a Ray that is started here."""

import math
import os
import socket
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.local import visible_cores
from fpt_lightning.experiments.launchers.orders import Order, Verdict, fail
from fpt_lightning.experiments.launchers.process import WorkerProcess, check_here

ATTEMPTS = 3
"""Times that an order is given: again where the actor or its node died of it."""

OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for Ray's objects: ours are a line each, and its default is a third of the machine."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns that it will be so
}


class RayLauncher(Launcher):
    """Runs in Ray actors, each of which holds one warm process: a run is made as the local launcher makes it.

    Files are not carried about: every node must see this folder under the same path.

    Args:
        jobs: Runs at a time; by default as many as the cluster has GPUs for, or cores where it has no GPU.
        threads: Threads of each; by default its share of the cores, as with the local launcher.
        address: The cluster to join: ``HOST:PORT``, or ``auto`` for the one that this machine belongs to; by default
            Ray is started here, and stopped again.
        gpus: GPUs of a run: 0.25 puts four on each. By default 1 where the cluster has any, else 0.

    Raises:
        UsageError: If Ray is not installed, or the cluster cannot give so many GPUs.
        FPTError: If the address cannot be reached.
    """

    def __init__(
        self,
        jobs: int | None = None,
        threads: int | None = None,
        address: str | None = None,
        gpus: float | None = None,
    ) -> None:
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise UsageError(f"--gpus is a share of one GPU such as 0.25, or a whole number, got {gpus:g}")
        self._ray = _connect(address, visible_cores() if jobs is None else max(jobs, visible_cores()))
        try:
            resources = self._ray.cluster_resources()
            available = resources.get("GPU", 0.0)
            self._gpus = min(1.0, available) if gpus is None else gpus
            if self._gpus > available:
                raise UsageError(f"--gpus {self._gpus:g}: this Ray cluster has {available:g} GPUs in all")
            cores = int(resources.get("CPU", 1)) if address is not None else visible_cores()
            self.slots: int = jobs or (_shares(available, self._gpus) if self._gpus else cores)
            smallest = min(int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"])
            self.threads = threads or max(1, min(cores // self.slots, smallest))
            # as with the local launcher, runs beyond the cores share them rather than wait
            self._cores = min(float(self.threads), cores / self.slots)
        except BaseException:
            self._ray.shutdown()
            raise
        self._actor = self._ray.remote(RunActor)
        self._waiting: deque[Order] = deque()
        self._idle: list[Any] = []  # actors without an order
        self._given: dict[Any, tuple[Order, Any]] = {}  # by the reference of what is to come: the order, its actor
        self._begun: dict[Any, Any] = {}  # by actor: a reference that is there once it runs on a node
        self._deaths: Counter[str] = Counter()

    def submit(self, orders: Sequence[Order]) -> None:
        """Takes orders; those beyond the free actors wait in line."""
        self._waiting.extend(orders)
        self._give()

    def wait(self, seconds: float) -> list[Verdict]:
        """Verdicts that have come in. An order whose actor died is given again: its run goes on from its checkpoint."""
        references = list(self._given)
        ready, others = self._ray.wait(references, num_returns=1, timeout=seconds)
        if others:
            ready += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        found = [self._collect(reference) for reference in ready]
        self._give()
        self._make_room()
        return [verdict for verdict in found if verdict is not None]

    def running(self) -> list[str]:
        """The orders in hand."""
        return [order.id for order, _ in self._given.values()]

    def check(self, commands: Sequence[Sequence[str]]) -> list[str | None]:
        """Asks a process of this machine."""
        return check_here(commands)

    def close(self) -> None:
        """Ends all actors; their processes notice and end too. A Ray that was started here is stopped."""
        self._waiting.clear()
        for actor in list(self._begun):
            self._end(actor)
        self._idle.clear()
        self._given.clear()
        self._ray.shutdown()

    def _collect(self, reference: Any) -> Verdict | None:
        """What became of an order; None where it is given again."""
        order, actor = self._given.pop(reference)
        try:
            verdict: Verdict = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            del self._begun[actor]
            self._deaths[order.id] += 1
            if self._deaths[order.id] < ATTEMPTS:
                self._waiting.appendleft(order)
                return None
            return fail(order, f"its Ray actor died {ATTEMPTS} times: {_last_line(error)}")
        except self._ray.exceptions.RayError as error:
            self._end(actor)
            return fail(order, _last_line(error))
        self._idle.append(actor)
        return verdict

    def _give(self) -> None:
        """Hands an order to every actor that has none."""
        while self._waiting and len(self._given) < self.slots:
            actor = self._idle.pop() if self._idle else self._new_actor()
            order = self._waiting.popleft()
            self._given[actor.make.remote(order)] = (order, actor)

    def _make_room(self) -> None:
        """Ends an actor without an order where another finds no room: a node may be too small for what is left."""
        if not self._idle or self._waiting:
            return
        begun = [self._begun[actor] for _, actor in self._given.values()]
        if begun and len(self._ray.wait(begun, num_returns=len(begun), timeout=0)[0]) < len(begun):
            self._end(self._idle.pop())

    def _end(self, actor: Any) -> None:
        del self._begun[actor]
        self._ray.kill(actor)

    def _new_actor(self) -> Any:
        environment = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        if not self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        options = {"num_cpus": self._cores, "num_gpus": self._gpus}
        actor = self._actor.options(**options).remote(os.getcwd(), environment)  # noqa: PTH109
        self._begun[actor] = actor.begun.remote()  # asked before its first order, behind which it would wait
        return actor


class RunActor:
    """What runs on a node: it holds a warm process, and replaces it where a run has killed it.

    Args:
        folder: The folder in which the sweep was started.
        environment: What the environment of its process adds to the node's.
    """

    def __init__(self, folder: str, environment: Mapping[str, str]) -> None:
        os.chdir(folder)
        self._environment = environment
        self._worker: WorkerProcess | None = None

    def begun(self) -> bool:
        """Answers once the actor has found room on a node."""
        return True

    def make(self, order: Order) -> Verdict:
        """Makes a run."""
        worker = self._worker or WorkerProcess(self._environment)
        worker.give(order)
        verdict, alive = worker.verdict()
        if not alive:
            worker.kill()
        self._worker = worker if alive else None
        return verdict


def _connect(address: str | None, cores: int) -> ModuleType:
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    try:
        import ray
    except ImportError as error:
        raise UsageError('--launcher ray needs Ray: pip install "fpt-lightning[ray]"') from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        here: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        ray.init(address="local", **here, **quiet)
        return ray
    _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FPTError(f"--address {address}: no Ray cluster answers there: {_first_line(error)}") from error
    return ray


def _check_reachable(address: str) -> None:
    """Tries the port: Ray itself tries for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise UsageError(f"--address is HOST:PORT, ray://HOST:PORT or auto, got {address}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise FPTError(
            f"--address {address}: no Ray cluster answers there ({error}); `ray start --head` starts one"
        ) from error


def _shares(available: float, each: float) -> int:
    """Runs that fit on so many GPUs; a run never lies across two."""
    return int(available) * math.floor(1 / each + 1e-9) if each <= 1 else int(available // each)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
