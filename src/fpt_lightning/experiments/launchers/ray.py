"""Warm processes on the machines of a Ray cluster, or of a Ray that is started here."""

import math
import os
import signal
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.process import WorkerProcess
from fpt_lightning.experiments.launchers.verdict import Verdict, fail
from fpt_lightning.machine import visible_cores

ATTEMPTS = 3
"""Times that a run is given: again where the worker or its node died of it."""

OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for Ray's objects: ours are a line each, and its default is a third of the machine."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns that it will be so
}


class RayLauncher(Launcher):
    """Runs as tasks of Ray, whose workers hold one warm process each: a run is made as the local launcher makes it.

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
        check_share(gpus)
        told = signal.getsignal(signal.SIGTERM)
        self._ray = _connect(address, visible_cores() if jobs is None else max(jobs, visible_cores()))
        signal.signal(signal.SIGTERM, told)  # Ray's own would end with 1, and leave the sweep no word
        try:
            resources = self._ray.cluster_resources()
            available = resources.get("GPU", 0.0)
            self._gpus = min(1.0, available) if gpus is None else gpus
            if self._gpus > available:
                raise UsageError(f"--gpus {self._gpus:g}: this Ray cluster has {available:g} GPUs in all")
            cores = int(resources.get("CPU", 1)) if address is not None else visible_cores()
            self.slots: int = jobs or (shares(available, self._gpus) if self._gpus else cores)
            smallest = min(int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"])
            self.threads = threads or max(1, min(cores // self.slots, smallest))
            # as with the local launcher, runs beyond the cores share them rather than wait
            share = min(float(self.threads), cores / self.slots)
        except BaseException:
            self._ray.shutdown()
            raise
        # a worker that has made a run makes the next one too: by default Ray ends those that had a GPU
        options = {"num_cpus": share, "num_gpus": self._gpus, "max_retries": ATTEMPTS - 1, "max_calls": 0}
        self._make = self._ray.remote(**options)(make)
        self._environment = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        if not self._gpus:
            self._environment["CUDA_VISIBLE_DEVICES"] = ""
        self._waiting: deque[Run] = deque()
        self._given: dict[Any, Run] = {}  # by the reference of what is to come

    def submit(self, runs: Sequence[Run]) -> None:
        self._waiting.extend(runs)
        self._give()

    def wait(self, seconds: float) -> list[Verdict]:
        """Verdicts that have come in. Ray itself gives a run again whose worker died."""
        references = list(self._given)
        self._ray.wait(references, num_returns=1, timeout=seconds)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        verdicts = [self._collect(reference) for reference in ready]
        self._give()
        return verdicts

    def running(self) -> list[str]:
        return [run.id for run in self._given.values()]

    def close(self) -> None:
        """Leaves Ray, which ends its workers; their processes notice and end too."""
        self._waiting.clear()
        self._given.clear()
        self._ray.shutdown()

    def _collect(self, reference: Any) -> Verdict:
        run = self._given.pop(reference)
        try:
            verdict: Verdict = self._ray.get(reference)
        except self._ray.exceptions.WorkerCrashedError as error:
            return fail(run, f"its Ray worker died {ATTEMPTS} times: {_last_line(error)}")
        except self._ray.exceptions.RayError as error:
            return fail(run, _last_line(error))
        return verdict

    def _give(self) -> None:
        while self._waiting and len(self._given) < self.slots:
            run = self._waiting.popleft()
            self._given[self._make.remote(run, os.getcwd(), self.threads, self._environment)] = run  # noqa: PTH109


_warm: WorkerProcess | None = None  # of this worker of Ray's


def make(run: Run, folder: str, threads: int, environment: Mapping[str, str]) -> Verdict:
    """What a worker of Ray's does: it holds a warm process, a new one where a run has killed it."""
    global _warm
    os.chdir(folder)
    # the next run of this worker may be given another GPU
    environment = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""), **environment}
    if _warm is not None and _warm.environment != environment:
        _warm.kill()
        _warm = None
    _warm = worker = _warm or WorkerProcess(threads, environment)
    worker.give(run)
    verdict, alive = worker.verdict()
    if not alive:
        worker.kill()
        _warm = None
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
        reason = str(error).strip().partition("\n")[0]
        raise FPTError(f"--address {address}: no Ray cluster answers there: {reason}") from error
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


def check_share(gpus: float | None) -> None:
    """Refuses what is neither a share of a GPU nor a number of them.

    Raises:
        UsageError: If it is.
    """
    if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
        raise UsageError(f"--gpus is a share of one GPU such as 0.25, or a whole number, got {gpus:g}")


def shares(available: float, each: float) -> int:
    """Runs that fit on so many GPUs; a run never lies across two."""
    return int(available) * math.floor(1 / each + 1e-9) if each <= 1 else int(available // each)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
