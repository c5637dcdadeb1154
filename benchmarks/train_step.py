"""Training steps a second and peak memory, beside what people write by hand, on this machine.

Two tables, one JSON:

1. GPT-2 base, bit-memory at batch 4 and cifar-shaped input (64 x 48) at batch 16, in fp32. The plain baseline is
   transformers' model with eager attention, frozen by requires_grad alone, Adam over all parameters, loss and accuracy
   moved to the host at every step. Both compute the same answers, ours without what the last block makes of other
   tokens; the share is that of the machine's fp32 matrix rate, measured in the same run as the faster of torch's two
   matrix kernels.
2. What `fpt run` adds to a bare loop over the same model, optimizer and data, at about 20 ms a step.

    python benchmarks/train_step.py --out benchmarks/results/train_step-MACHINE.json
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fpt_lightning.data.bits import BitXOR
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.machine import machine
from fpt_lightning.main import main as fpt
from fpt_lightning.models.backbones.architectures import ARCHITECTURES
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

CASES = {
    "bit-memory, batch 4": (4, TaskSpec("bit_memory", 120, 2, 50, answer_tokens=20, answers_per_token=50)),
    "cifar-shaped, batch 16": (16, TaskSpec("cifar", 64, 10, token_width=48)),
}
GPT2S = [name for name, (model_type, _) in ARCHITECTURES.items() if model_type == "gpt2"]
Step = Callable[[], None]


def plain_step(task: TaskSpec, batch: tuple[torch.Tensor, torch.Tensor], backbone: str) -> Step:
    """A training step in the style of most public scripts."""
    from transformers import GPT2Config, GPT2Model

    device = batch[0].device
    config = GPT2Config(attn_implementation="eager")
    config.update(ARCHITECTURES[backbone][1])
    body = GPT2Model(config)
    entrance = nn.Linear(task.token_width or 0, config.n_embd)
    head = nn.Linear(config.n_embd, task.answers_per_token * task.classes)
    model = nn.ModuleList([entrance, body, head]).to(device)
    for name, parameter in body.named_parameters():
        parameter.requires_grad = "ln" in name or "wpe" in name
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tokens, target = batch

    def step() -> None:
        hidden = body(inputs_embeds=entrance(tokens))[0]
        logits = head(hidden[:, -task.answer_tokens :]).reshape(-1, task.classes)
        loss = F.cross_entropy(logits, target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        (logits.argmax(-1) == target.flatten()).float().mean().item()

    return step


def our_step(task: TaskSpec, batch: tuple[torch.Tensor, torch.Tensor], backbone: str) -> Step:
    """The same step through this package."""
    tokens, target = batch
    model = FrozenPretrainedTransformer(task, BackboneChoice(backbone, "random")).to(tokens.device)
    return bare_step(model, lambda: (tokens, target))


def bare_step(model: FrozenPretrainedTransformer, next_batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Step:
    """What Lightning does in a step, without Lightning."""
    trained = list(model.trained_parameters().values())
    optimizer = torch.optim.Adam(trained, lr=1e-3, foreach=True)

    def step() -> None:
        tokens, target = next_batch()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


STYLES = {"plain": plain_step, "ours": our_step}


def measure(style: str, case: str, backbone: str, device: str, seconds: float) -> dict[str, float]:
    """Seconds a step (median) and peak memory in MiB; run in a process of its own."""
    size, task = CASES[case]
    torch.manual_seed(0)
    tokens = torch.randn(size, task.max_length, task.token_width or 0, device=device)
    target = torch.randint(task.classes, (size, task.answers), device=device)
    step = STYLES[style](task, (tokens, target), backbone)
    times = []
    for _ in range(3):
        step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    memory = (
        torch.cuda.max_memory_allocated() / 2**20
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    return {"seconds": statistics.median(times), "memory_mb": memory}


def arithmetic(task: TaskSpec, size: int, backbone: str, style: str) -> float:
    """Floating-point operations of a step with a frozen body: forward, and the gradient of activations alone."""
    fields = ARCHITECTURES[backbone][1]
    layers, width = fields["n_layer"], fields["n_embd"]
    tokens = size * task.max_length
    linear = 2 * tokens * 12 * width**2 * layers
    attention = 2 * 2 * tokens * task.max_length * width * layers
    if style == "ours":  # in the last block other tokens than those that answer are queries, keys and values alone
        others = size * (task.max_length - task.answer_tokens)
        linear -= 2 * others * 9 * width**2
        attention -= 2 * 2 * others * task.max_length * width
    return 2 * linear + 3 * attention  # both products of attention are differentiated on both sides


def matrix_rate(device: str) -> float:
    """The machine's fp32 matrix rate in operations a second: the faster of torch's kernels at GPT-2's own shape."""
    x, weight = torch.randn(1024, 768, device=device), torch.randn(3072, 768, device=device)
    kernels: list[Callable[[], torch.Tensor]] = [lambda: x @ weight.T]
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        kernels.append(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""))
    rates = []
    for kernel in kernels:
        for _ in range(5):
            kernel()
        start = time.perf_counter()
        for _ in range(30):
            kernel()
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(30 * 2 * 1024 * 768 * 3072 / (time.perf_counter() - start))
    return max(rates)


def in_own_process(style: str, case: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Calls :func:`measure` in a fresh process, so that peak memory is its own."""
    words = ["--measure", style, case, "--backbone", arguments.backbone, "--device", arguments.device]
    words += ["--seconds", str(arguments.seconds)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Plain and ours in turn, the median over the repeats, and the ratio repeat by repeat."""
    rows = []
    print(f"{'case':<24}{'style':<8}{'steps/s':>9}{'MiB':>8}{'matrix rate':>13}{'ratio':>8}")
    for case in arguments.cases:
        size, task = CASES[case]
        pairs = [{style: in_own_process(style, case, arguments) for style in STYLES} for _ in range(arguments.repeats)]
        rate = matrix_rate(arguments.device)
        ratio = statistics.median(pair["plain"]["seconds"] / pair["ours"]["seconds"] for pair in pairs)
        for style in STYLES:
            seconds = statistics.median(pair[style]["seconds"] for pair in pairs)
            memory = statistics.median(pair[style]["memory_mb"] for pair in pairs)
            share = arithmetic(task, size, arguments.backbone, style) / seconds / rate
            rows.append(
                {"case": case, "style": style, "steps_per_second": 1 / seconds, "memory_mb": memory, "share": share}
                | ({"ratio": ratio} if style == "ours" else {})
            )
            shown = f"{ratio:.2f}" if style == "ours" else ""
            print(f"{case:<24}{style:<8}{1 / seconds:>9.2f}{memory:>8.0f}{share:>12.0%}{shown:>8}", flush=True)
    return rows


def overhead(arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step of a bare loop and of `fpt run`, in turn, on bit-xor with the small backbone."""
    bare, run = [], []
    for _ in range(arguments.repeats + 2):
        data = BitXOR()
        batches = iter(data.train_dataloader())
        model = FrozenPretrainedTransformer(data.task, BackboneChoice("small")).to(arguments.device)

        def next_batch(batches: Any = batches) -> tuple[torch.Tensor, torch.Tensor]:
            batch = next(batches)
            return batch.tokens.to(arguments.device), batch.target.to(arguments.device)

        step = bare_step(model, next_batch)
        for _ in range(10):
            step()
        start = time.perf_counter()
        for _ in range(arguments.steps):
            step()
        bare.append((time.perf_counter() - start) / arguments.steps * 1e3)
        with tempfile.TemporaryDirectory() as folder:
            words = ["run", "--config=bit_xor.yaml", f"--trainer.max_steps={arguments.steps}"]
            words += [f"--trainer.val_check_interval={arguments.steps}", f"--run_folder={folder}/run"]
            words += [f"--trainer.accelerator={'gpu' if arguments.device == 'cuda' else 'cpu'}"]
            if fpt(words) != 0:
                raise SystemExit("fpt run failed")
            result = json.loads(Path(folder, "run", "result.json").read_text())
        run.append(result["batch_size"] / result["samples_per_second"] * 1e3)
    added = statistics.median(ours / theirs - 1 for ours, theirs in zip(run, bare, strict=True))
    return {"bare_ms": statistics.median(bare), "fpt_run_ms": statistics.median(run), "added": added}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="gpt2", choices=GPT2S)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each style of a case is measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, help="only these")
    parser.add_argument("--steps", type=int, default=300, help="steps of each run whose overhead is measured")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    parser.add_argument("--measure", nargs=2, metavar=("STYLE", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        style, case = arguments.measure
        print(json.dumps(measure(style, case, arguments.backbone, arguments.device, arguments.seconds)))
        return
    rows = compare(arguments)
    added = overhead(arguments)
    print(
        f"\nfpt run: {added['fpt_run_ms']:.1f} ms a step, a bare loop {added['bare_ms']:.1f} ms, "
        f"{added['added']:.1%} added"
    )
    if arguments.out:
        result = {
            "machine": machine(arguments.device), "backbone": arguments.backbone, "precision": "fp32",
            "matrix_rate_gflops": matrix_rate(arguments.device) / 1e9, "steps": rows, "overhead": added,
        }  # fmt: skip
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
