"""The door of the `fpt` command: help and version at once, everything else through the command line of cli.py."""

import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType

from fpt_lightning import __version__
from fpt_lightning.errors import FPTError, UsageError, did_you_mean, os_reason, printable
from fpt_lightning.machine import begin_again, huge_pages, out_of_memory_named
from fpt_lightning.signals import Ending, signal_in, stopped_by

COMMANDS = {
    "run": "train, choose the checkpoint on validation, test it once, write result.json",
    "fit": "train (Lightning's fit)",
    "validate": "one pass over the validation split (Lightning's validate)",
    "test": "one pass over the test split (Lightning's test)",
    "predict": "answer the test examples (Lightning's predict)",
    "prepare": "fetch or generate the data of a config, verify it, say what was found",
    "sweep": "make every run of a table that is missing: fpt sweep TABLE",
    "status": "which runs of a table are done, running, failed or missing",
    "report": "print a table beside the paper's figures: fpt report TABLE --format html",
    "attention": "draw what the answers of a run look at: fpt attention RUN",
    "analyze": "what the layers of a run hold, beside another's: fpt analyze RUN OTHER",
    "completion": "print the script that lets a shell complete all this: fpt completion bash",
}

# commands with options of their own, and the module whose function of that name takes them
HOME = {
    "sweep": "fpt_lightning.experiments.commands",
    "status": "fpt_lightning.experiments.commands",
    "report": "fpt_lightning.experiments.commands",
    "attention": "fpt_lightning.analysis.attention",
    "analyze": "fpt_lightning.analysis.layers",
    "completion": "fpt_lightning.completion",
}

PEER_GONE = ("Connection closed by peer", "Connection reset by peer")
"""What a process says that waits for another which is there no more."""

HELP = f"""usage: fpt COMMAND [CONFIG.yaml ...] [RUN] [--OPTION VALUE ...]

What can a frozen pretrained transformer compute outside the modality it was trained on?

commands:
{chr(10).join(f"  {name:<11}{text}" for name, text in COMMANDS.items())}

Configs compose from left to right; a name such as mnist.yaml or backbones/gpt2.yaml is found from any folder.
A run folder stands for its config and its checkpoint: test, validate and predict take the best, run and fit go on.
  fpt run bit_xor.yaml --trainer.max_steps 2000
  fpt run mnist.yaml backbones/gpt2.yaml trainer/gpu.yaml
  fpt test runs/mnist/000

options:
  -h, --help   this page; `fpt COMMAND --help` shows the options of a command
  --version    the version
  --debug      show the traceback of an error
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What follows ``fpt`` on the command line; that of this process by default.

    Returns:
        The exit status: 0; 2 for a wrong command line or config; 130 and 143 for Ctrl-C and SIGTERM; 1 for anything
        else that went wrong.
    """
    ending = None if arguments is not None else _take_over_process()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if arguments is None and not debug:  # the process is ours
        sys.excepthook = _say_bug
    try:
        with out_of_memory_named():
            _run(words, ending)
        sys.stdout.flush()
    except BrokenPipeError as error:  # nobody reads on: fpt sweep TABLE --dry-run | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where python's last flush may go
        if hasattr(error, "__notes__"):
            _say("fpt: error: nobody reads the output any more", error)
        return 1
    except (KeyboardInterrupt, SystemExit) as stop:
        if (number := signal_in(stop)) is None:
            raise
        if _is_follower():
            return 0  # Lightning would kill the first process for it, which says what there is to say
        _say(stopped_by(number), stop)
        return 128 + number
    except (FPTError, OSError) as error:
        if debug:
            raise
        _say(f"fpt: error: {os_reason(error) if isinstance(error, OSError) else error}", error)
        return error.exit_code if isinstance(error, FPTError) else 1
    return 0


def _say_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Stands in for Python's last words on an exception that nobody foresaw: the traceback goes to a file.

    It is a hook rather than a clause of :func:`main`: nothing is caught, Python itself ends the process with status 1.
    """
    if not issubclass(kind, Exception):  # Ctrl-C is none
        sys.__excepthook__(kind, error, trace)
        return
    if _is_follower() and any(words in str(error) for words in PEER_GONE):
        _say("fpt: error: another process of this run ended, and says why", error)
        return
    lines = [f"fpt-lightning {__version__}, Python {sys.version}\n{shlex.join(sys.argv)}\n\n"]
    lines += traceback.format_exception(kind, error, trace)
    said = " ".join(traceback.format_exception_only(kind, error)[-1].split())[:300]
    try:
        with NamedTemporaryFile("w", prefix="fpt-", suffix=".txt", delete=False, errors="replace") as file:
            file.writelines(lines)
        where = f"the traceback is in {file.name}"
    except OSError:
        where = "the same command with --debug shows the traceback"
    _say(f"fpt: error: this is a bug of fpt-lightning, or of code it was given: {said}\n{where}", error)


def _take_over_process() -> Ending:
    """Settles what belongs to a process of its own, and not to a program that calls :func:`main`."""
    computes = {*sys.argv[1:2]} & (COMMANDS.keys() - HOME.keys())  # itself; a sweep's workers are told by the sweep
    missing, options = huge_pages() if computes else {}, []
    if sys.getfilesystemencoding() != "utf-8":  # LC_ALL=C and PYTHONUTF8=0: no ü can be read, kept or written
        missing["PYTHONUTF8"], options = "1", ["-X", "utf8"]
    begin_again(missing, *options)
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files; a notebook's backend is none of its child
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for is no error
    return Ending()


def _is_follower() -> bool:
    """Whether Lightning started this process beside the first of a run."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _say(line: str, error: BaseException) -> None:
    with suppress(OSError):  # nobody reads that either
        print(printable("\n".join([line, *getattr(error, "__notes__", [])])), file=sys.stderr, flush=True)


def _run(words: list[str], ending: Ending | None) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
    elif words[0] == "--version":
        print(f"fpt-lightning {__version__}")
    elif words[0] not in COMMANDS:
        raise UsageError(f"no command is called '{words[0]}'{did_you_mean(words[0], COMMANDS)} `fpt --help` lists them")
    else:
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # a task of one's own beside its config; last, so that it shadows no package
        is_pack = words[0] == "run" and any(word.partition("=")[0] == "--pack" for word in words)
        home = {**HOME, "run": "fpt_lightning.experiments.packing"} if is_pack else HOME
        module = import_module(home.get(words[0], "fpt_lightning.cli"))  # which imports torch: seconds
        if ending is not None:
            ending.put_away()
        if words[0] in home:
            getattr(module, words[0])(words[1:])
        else:
            module.FPTCLI(words)
