"""The machine that a program runs on: its processors, and what of them this process may use."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fpt_lightning.errors import FPTError, UsageError

CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may take, by its two versions."""

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "Unable to allocate")
"""What torch and numpy say of memory that there is not, in errors of no kind of their own."""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Where Linux says who gets memory in pages of 2 MiB: all programs, those that ask for it, or none."""

FEATURES = {"avx2": "AVX2", "avx512_f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
"""What decides how fast a processor multiplies matrices, by the names that torch has for it."""


def machine(device: str) -> dict[str, Any]:
    """Name and features of the device, torch's threads and its version, for the JSON of a benchmark or of a run."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    about = {"device": name, "features": features(device)}
    return {**about, "threads": torch.get_num_threads(), "torch": torch.__version__}


def features(device: str) -> list[str]:
    """What a device has of :data:`FEATURES`; of a GPU whether it computes in bf16."""
    import torch

    if device == "cuda":
        return ["bf16"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    if device != "cpu":
        return []
    processor: Any = torch.cpu
    if hasattr(processor, "get_capabilities"):
        has = processor.get_capabilities()
    else:  # torch 2.11 has no public way to ask
        asked = {"avx2": "avx2", "avx512_f": "avx512", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx_tile"}
        has = {feature: getattr(processor, f"_is_{name}_supported")() for feature, name in asked.items()}
    return [name for feature, name in FEATURES.items() if has.get(feature)]


def bf16_units(device: str) -> list[str]:
    """Which of a device's :func:`features` multiply bf16 at a higher rate than fp32.

    Intel's AVX512-BF16 does so at half the rate: what its processors have for speed is AMX.
    """
    slow = ["AVX512-BF16"] if device == "cpu" and is_intel() else []
    return [name for name in features(device) if name.upper().endswith("BF16") and name not in slow]


@cache
def multiplies_bf16() -> bool:
    """Whether products in bf16 are no slower on this processor than those in fp32.

    Without oneDNN's torch has its own, which take up to eighty times as long; an Intel without AMX takes twice as long.
    """
    import torch

    there = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(there and (bf16_units("cpu") or not is_intel()))


@cache
def is_intel() -> bool:
    """Whether the processor is Intel's, whose own library is at the heart of torch: MKL."""
    return "intel" in _processor().lower()


def huge_pages() -> dict[str, str]:
    """What a process must find in its environment to ask for pages of 2 MiB, where Linux leaves that to programs.

    Tensors then lie in few pages, and are read and written faster (docs/performance.md). The C library reads it once,
    when a process begins; a setting of the user's stands.
    """
    asked = "GLIBC_TUNABLES" in os.environ or not HUGE_PAGES.is_file() or "[madvise]" not in HUGE_PAGES.read_text()
    return {} if asked else {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def begin_again(missing: Mapping[str, str], *options: str) -> None:
    """Begins this program anew, in its process, if its environment lacks what counts only then.

    Args:
        missing: What the environment gets, for the program's own processes too; nothing happens if it is empty, or if
            the program was typed or piped in, which cannot be read again.
        options: Further ones of the interpreter.
    """
    if missing and sys.argv[0] not in ("", "-"):
        os.environ |= missing
        os.execv(sys.executable, [sys.executable, *options, *sys.orig_argv[1:]])


def visible_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; found without torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(place) for place, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def usable_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or fewer where a container or a limit says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [int(text) for file in CGROUPS if file.is_file() and (text := file.read_text().strip()).isdigit()]
    limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min(limits)


def expect_memory(needed: int, what: str) -> None:
    """Refuses what could not be held, before any of it is made.

    Args:
        needed: Bytes that it takes at least.
        what: What it is, the beginning of a sentence.

    Raises:
        UsageError: If it is more than this process may use.
    """
    if needed > (there := usable_memory()):
        raise UsageError(f"{what} takes at least {_gib(needed)} of memory, and there are {_gib(there)}")


@contextmanager
def out_of_memory_named() -> Iterator[None]:
    """Says in a line that memory ran out, on a GPU too.

    Raises:
        FPTError: If it does.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:  # jsonargparse makes a ValueError of what classes raise
        told = [line for line in str(error).splitlines() if any(words in line for words in OUT_OF_MEMORY)]
        if not told and not isinstance(error, MemoryError):
            raise
        reason = re.sub(r"^[\s-]*(\[enforce fail [^]]*\][^:]*: )?", "", (told or [str(error)])[0]).rstrip(".")
        raise FPTError(
            f"out of memory ({reason or type(error).__name__}): "
            "choose a smaller data.batch_size or data.eval_batch_size, or smaller sizes of data or backbone"
        ) from error


def _gib(size: int) -> str:
    return f"{size // 2**30:,} GiB" if size >= 2**30 else f"{size // 2**20:,} MiB"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
