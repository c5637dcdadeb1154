"""Warm processes of this machine, devices and cores shared out among them."""

import selectors
from collections import deque
from collections.abc import Sequence

from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.process import WorkerProcess
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.machine import visible_cores, visible_gpus


class LocalLauncher(Launcher):
    """Runs in ``jobs`` processes at a time, each on one device, or on its share of the cores.

    Args:
        jobs: Processes; by default one for every GPU, or one for every core where there is none.
        threads: Threads of each; by default its share of the cores. Results on a CPU agree to the last bit only
            between runs of as many threads.
    """

    def __init__(self, jobs: int | None = None, threads: int | None = None) -> None:
        self._devices = visible_gpus()
        cores = visible_cores()
        self.slots: int = jobs or len(self._devices) or cores
        self.threads = threads or max(1, cores // self.slots)
        self._waiting: deque[Run] = deque()
        self._workers: dict[int, WorkerProcess] = {}  # by slot

    def submit(self, runs: Sequence[Run]) -> None:
        self._waiting.extend(runs)
        self._give()

    def wait(self, seconds: float) -> list[Verdict]:
        verdicts = []
        with selectors.DefaultSelector() as selector:
            for slot, worker in self._workers.items():
                if worker.run is not None:
                    selector.register(worker, selectors.EVENT_READ, slot)
            for key, _ in selector.select(seconds):
                verdict, alive = self._workers[key.data].verdict()
                if not alive:
                    self._workers.pop(key.data).kill()
                verdicts.append(verdict)
        self._give()
        return verdicts

    def running(self) -> list[str]:
        return [worker.run.id for worker in self._workers.values() if worker.run is not None]

    def check(self, commands: Sequence[Sequence[str]]) -> list[str | None]:
        return self._worker(0).check(commands)  # it is warm for the first run then

    def close(self) -> None:
        self._waiting.clear()
        while self._workers:
            self._workers.popitem()[1].kill()

    def _give(self) -> None:
        """Hands a run to every process that has none."""
        for slot in range(self.slots):
            if self._waiting and (slot not in self._workers or self._workers[slot].run is None):
                self._worker(slot).give(self._waiting.popleft())

    def _worker(self, slot: int) -> WorkerProcess:
        if slot not in self._workers:
            device = {"CUDA_VISIBLE_DEVICES": self._devices[slot % len(self._devices)]} if self._devices else {}
            self._workers[slot] = WorkerProcess(self.threads, device)
        return self._workers[slot]
