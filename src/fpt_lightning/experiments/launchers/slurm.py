"""Jobs of a SLURM cluster, submitted as arrays with submitit."""

import contextlib
import inspect
import io
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning.errors import FPTError, UsageError, did_you_mean
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.process import WorkerProcess
from fpt_lightning.experiments.launchers.verdict import Verdict, fail

LARGEST_ARRAY = 1000
"""Jobs of one array; SLURM's own default for the most (MaxArraySize) is 1,001."""

MINUTES = 60
"""Of a job; it is requeued as often as TIMEOUTS says when they are over."""

TIMEOUTS = 20

POLL = 10.0
"""Seconds between two questions to SLURM, one for all jobs."""

UNSEEN = 3
"""Questions in a row that do not mention a job until it is taken for gone, or a dead one for silent: files lag."""

ALIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
         "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED")  # fmt: skip

WAY_OUT = {
    "OUT_OF_MEMORY": "give it more: --slurm mem=16GB",
    "TIMEOUT": f"give it more minutes: --slurm time={2 * MINUTES}",
}

ARGUMENTS = ("setup", "teardown", "srun_args")
"""Options of submitit that are lists: each --slurm adds to them."""


class SlurmLauncher(Launcher):
    """Runs as jobs of their own, an array for everything submitted at a time.

    A job that is preempted, or whose time is over, is requeued, and its run goes on from its last checkpoint. Files are
    not carried about: every node must see this folder under the same path.

    Args:
        jobs: Jobs of an array that run at a time; by default the cluster decides.
        threads: Threads of a run, and cores of its job; by default cpus_per_task, or 1.
        options: ``KEY=VALUE``, as submitit names them: partition, time (minutes), mem, gpus_per_node, account, ...
        folder: Where the run folders lie; submitit's files go to ``slurm`` within.

    Raises:
        UsageError: If submitit is not installed, it knows no such option, or there are more threads than cores.
        FPTError: If SLURM's commands are not there.
    """

    def __init__(
        self,
        jobs: int | None = None,
        threads: int | None = None,
        options: Sequence[str] = (),
        folder: Path = Path("runs"),
    ) -> None:
        given = read_options(options)
        import submitit

        self._submitit = submitit
        self.slots = jobs
        self.threads: int = threads or int(given.get("cpus_per_task", 1))
        if self.threads > (cores := given.get("cpus_per_task", self.threads)):
            raise UsageError(
                f"--threads {threads} on --slurm cpus_per_task={cores}: each thread of a run has a core of its own"
            )
        if missing := [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]:
            raise FPTError(f"SLURM's commands are not on this machine: {', '.join(missing)}; start from a login node")
        parameters = {"job_name": "fpt", "time": MINUTES, "cpus_per_task": self.threads, **given}
        # from SLURM 22.05 on srun does not take the cores that sbatch was told
        parameters["srun_args"] = [f"--cpus-per-task={parameters['cpus_per_task']}", *given.get("srun_args", [])]
        if jobs is not None:
            parameters["array_parallelism"] = jobs
        self._executor = submitit.SlurmExecutor(folder=folder / "slurm", max_num_timeout=TIMEOUTS)
        self._executor.update_parameters(**parameters)
        self._jobs: dict[str, tuple[Run, Any]] = {}  # by the job's id, those without a verdict
        self._states: dict[str, str] = {}
        self._silent: dict[str, int] = {}  # questions in a row since a job is dead or gone
        self._asked = time.monotonic()

    def submit(self, runs: Sequence[Run]) -> None:
        """Submits an array of jobs.

        Raises:
            FPTError: If SLURM refuses it.
        """
        for start in range(0, len(runs), LARGEST_ARRAY):
            part = runs[start : start + LARGEST_ARRAY]
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what the error says
                    jobs = self._executor.map_array(SlurmRun(self.threads), part)
            except self._submitit.core.utils.FailedJobError as error:
                raise FPTError(f"SLURM does not take the jobs: {_refusal(str(error))}") from error
            self._jobs.update({job.job_id: (run, job) for run, job in zip(part, jobs, strict=True)})

    def wait(self, seconds: float) -> list[Verdict]:
        end = time.monotonic() + seconds
        while True:
            verdicts = [self._verdict(name) for name, (_, job) in list(self._jobs.items()) if _has_result(job)]
            if time.monotonic() - self._asked >= POLL:
                verdicts += self._look_for_the_dead()
            if verdicts or (left := end - time.monotonic()) <= 0:
                return verdicts
            time.sleep(min(0.5, left))

    def running(self) -> list[str]:
        """The runs whose jobs SLURM has started."""
        return [run.id for name, (run, _) in self._jobs.items() if self._states.get(name) == "RUNNING"]

    def close(self) -> None:
        if self._jobs:
            _ask("scancel", *self._jobs)
            self._jobs.clear()

    def _verdict(self, name: str) -> Verdict:
        run, job = self._jobs.pop(name)
        try:
            verdict: Verdict = job.result()
        except self._submitit.core.utils.UncompletedJobError as error:
            return fail(run, f"SLURM job {name}: {str(error).strip().splitlines()[-1]}")
        return verdict

    def _look_for_the_dead(self) -> list[Verdict]:
        """Asks SLURM how its jobs are, and gives up those that ended without leaving a result."""
        self._asked = time.monotonic()
        states = states_of_jobs()
        if states is None:  # no answer: another time
            return []
        self._states = states
        verdicts = []
        for name, (run, job) in list(self._jobs.items()):
            state = states.get(name)
            self._silent[name] = 0 if state in ALIVE else self._silent.get(name, 0) + 1
            if self._silent[name] >= (UNSEEN if state in (None, "COMPLETED") else 1) and not _has_result(job):
                del self._jobs[name]
                verdicts.append(fail(run, self._death(name, state or state_by_accounting(name), job)))
        return verdicts

    def _death(self, name: str, state: str | None, job: Any) -> str:
        ended = f"ended as {state}" if state else "is gone, and SLURM says nothing of it"
        return f"SLURM job {name} {ended}; {WAY_OUT.get(state or '', f'its words are in {job.paths.stderr}')}"


class SlurmRun:
    """What a job does: a run in a process of so many threads, as the local launcher makes it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, run: Run) -> Verdict:
        """Makes the run, or goes on with it."""
        # SLURM signals every process of a job: this one answers by requeuing it, the run is not to die before
        shielded = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, shielded)
        worker = WorkerProcess(self.threads)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, shielded)
        try:
            worker.give(run)
            return worker.verdict()[0]
        finally:
            worker.kill()

    def checkpoint(self, run: Run) -> Any:
        """What to submit in its place when the job is preempted or out of time: the same, as the run resumes itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as submitit's parameters.

    Raises:
        UsageError: If there is no such parameter, or its value is none, or submitit is not installed.
    """
    try:
        from submitit.slurm.slurm import _make_sbatch_string  # its own list, which it checks against
    except ImportError as error:
        raise UsageError('--launcher slurm needs submitit: pip install "fpt-lightning[slurm]"') from error

    ours = {"command", "folder", "map_count", "use_srun", "additional_parameters", "nodes", "ntasks_per_node"}
    known = [name for name in inspect.signature(_make_sbatch_string).parameters if name not in ours]
    parameters: dict[str, Any] = {}
    for option in options:
        key, _, text = option.partition("=")
        key = key.replace("-", "_")
        if key not in known:
            raise UsageError(f"--slurm {option}: there is no option '{key}'{did_you_mean(key, known)}")
        if not text:
            raise UsageError(f"--slurm {option}: write KEY=VALUE, such as partition=gpu")
        if key in ARGUMENTS:
            parameters[key] = [*parameters.get(key, []), text]
            continue
        # a memory or a node may look like a number, and 1:00 like 60 to YAML
        value = yaml.safe_load(text) if text.isdigit() or text in ("true", "false") else text
        if key in ("time", "cpus_per_task", "signal_delay_s", "array_parallelism") and not isinstance(value, int):
            raise UsageError(f"--slurm {option}: {key} is a whole number{' of minutes' if key == 'time' else ''}")
        parameters[key] = value
    return parameters


def states_of_jobs() -> dict[str, str] | None:
    """The state of every job of this user that SLURM remembers, by id; None where it does not answer.

    squeue rather than sacct, which needs a database that small clusters do without.
    """
    answer = _ask("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T")
    if answer is None:
        return None
    pairs = (line.partition("|") for line in answer.split() if "|" in line)
    return {name: state for name, _, state in pairs}


def state_by_accounting(name: str) -> str | None:
    """What the accounting says of a job that SLURM's controller has forgotten, where there is one."""
    answer = _ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={name}")
    return next(iter((answer or "").split()), None)


def _ask(*command: str) -> str | None:
    """What a command of SLURM's prints; None where it does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (subprocess.SubprocessError, OSError):
        return None


def _has_result(job: Any) -> bool:
    return bool(job.paths.result_pickle.is_file())


def _refusal(message: str) -> str:
    """The line of sbatch in what submitit says about it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = [line for line in lines if "sbatch: error:" in line]
    return said[-1].partition("sbatch: error:")[2].strip() if said else lines[-1]
