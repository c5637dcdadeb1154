"""Training steps a second and peak memory in fp32 and bf16, beside what people write by hand and peft, on this machine.

Two tables, one JSON:

1. GPT-2 base, or another `--backbone`, on bit-memory at batch 4 and cifar-shaped input (64 x 48) at batch 16. `plain`
   is transformers' model with eager attention, frozen by requires_grad alone, Adam over all parameters, loss and
   accuracy moved to the host at every step; `peft` its layer-norm tuning with sdpa attention under the step of
   transformers' Trainer, which trains the same numbers as `ours`, where peft is installed. In bf16 all run under
   autocast, and `ours` keeps its frozen matrices in bf16. Its memory comes in huge pages, for which `fpt` asks where
   Linux lets it, but in `small pages`. All compute the same answers, ours without what the last block makes of other
   tokens; the share is that of the matrix rate in the row's precision, measured in the same run as the faster of
   torch's two kernels, and in fp32 where it has none in bf16.
2. What `fpt run` adds to a bare loop over the same model, optimizer and data, at about 20 ms a step.

    python benchmarks/train_step.py --out benchmarks/results/train_step-MACHINE.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fpt_lightning.data.bits import BitXOR
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.machine import huge_pages, machine, multiplies_bf16
from fpt_lightning.main import main as fpt
from fpt_lightning.models.backbones.architectures import ARCHITECTURES
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.trainer import peak_memory_mb

CASES = {
    "bit-memory, batch 4": (4, TaskSpec("bit_memory", 120, 2, 50, answer_tokens=20, answers_per_token=50)),
    "cifar-shaped, batch 16": (16, TaskSpec("cifar", 64, 10, token_width=48)),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BACKBONES = [name for name, (model_type, _) in ARCHITECTURES.items() if model_type in ("gpt2", "llama", "qwen2")]
Batch = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[], None]


def autocast(device: str, precision: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def by_hand(task: TaskSpec, backbone: str, **options: Any) -> tuple[Any, Any, Any]:
    """Input layer, body of transformers and output layer."""
    from transformers import AutoConfig, AutoModel

    model_type, fields = ARCHITECTURES[backbone]
    config = AutoConfig.for_model(model_type, **fields, **options)
    entrance = nn.Linear(task.token_width or 0, config.hidden_size)
    head = nn.Linear(config.hidden_size, task.answers_per_token * (task.classes or 1))
    return entrance, AutoModel.from_config(config), head


def plain_step(task: TaskSpec, batch: Batch, backbone: str, precision: str = "fp32") -> tuple[Step, int]:
    """A training step in the style of most public scripts, and how many numbers it trains."""
    tokens, target = batch
    entrance, body, head = by_hand(task, backbone, attn_implementation="eager")
    model = nn.ModuleList([entrance, body, head]).to(tokens.device)
    for name, parameter in body.named_parameters():
        parameter.requires_grad = "ln" in name or "norm" in name or "wpe" in name
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        with autocast(tokens.device.type, precision):
            hidden = body(inputs_embeds=entrance(tokens))[0]
            logits = head(hidden[:, -task.answer_tokens :]).reshape(-1, task.classes)
            loss = F.cross_entropy(logits, target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        (logits.argmax(-1) == target.flatten()).float().mean().item()

    return step, trained(model)


def peft_step(task: TaskSpec, batch: Batch, backbone: str, precision: str = "fp32") -> tuple[Step, int]:
    """A step of layer-norm tuning by peft as transformers' Trainer makes it, without what it does between steps."""
    from peft import LNTuningConfig, get_peft_model

    tokens, target = batch
    entrance, body, head = by_hand(task, backbone, attn_implementation="sdpa", use_cache=False)
    body.set_input_embeddings(None)  # which nobody reads
    norms, positions = ["input_layernorm", "post_attention_layernorm", "norm"], []
    if hasattr(body, "wpe"):
        body.wpe = nn.Embedding(task.max_length, body.config.n_embd)  # as many positions as ours trains
        norms, positions = ["ln_1", "ln_2", "ln_f"], ["wpe"]
    tuned = get_peft_model(body, LNTuningConfig(target_modules=norms, modules_to_save=positions))
    model = nn.ModuleList([entrance, tuned, head]).to(tokens.device)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-3, weight_decay=0.0, fused=True)

    def step() -> None:
        with autocast(tokens.device.type, precision):
            hidden = tuned.base_model.model(inputs_embeds=entrance(tokens))[0]
            logits = head(hidden[:, -task.answer_tokens :]).reshape(-1, task.classes)
        F.cross_entropy(logits.float(), target.flatten()).backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, trained(model)


def our_step(task: TaskSpec, batch: Batch, backbone: str, precision: str = "fp32") -> tuple[Step, int]:
    """The same step through this package."""
    choice, kept = BackboneChoice(backbone, "random"), str(PRECISIONS[precision]).removeprefix("torch.")
    model = FrozenPretrainedTransformer(task, choice, frozen_dtype=kept).to(batch[0].device)  # type: ignore[arg-type]
    return bare_step(model, lambda: batch, precision), trained(model)


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def bare_step(model: FrozenPretrainedTransformer, next_batch: Callable[[], Batch], precision: str = "fp32") -> Step:
    """What Lightning does in a step, without Lightning."""
    moving = list(model.trained_parameters().values())
    optimizer = torch.optim.Adam(moving, lr=1e-3, foreach=True)

    def step() -> None:
        tokens, target = next_batch()
        with autocast(tokens.device.type, precision):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()

    return step


STYLES = {"plain": plain_step, "peft": peft_step, "ours": our_step, "small pages": our_step}


def measure(style: str, precision: str, case: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a step (median), most MiB with and without libraries, numbers that train, in its own process."""
    libraries = peak_memory_mb()
    size, task = CASES[case]
    torch.manual_seed(0)
    tokens = torch.randn(size, task.max_length, task.token_width or 0, device=arguments.device)
    target = torch.randint(task.classes or 1, (size, task.answers), device=arguments.device)
    step, moving = STYLES[style](task, (tokens, target), arguments.backbone, precision)
    times: list[float] = []
    for _ in range(2):
        step()
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        step()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = peak_memory_mb()
    own = peak if arguments.device == "cuda" else peak - libraries  # whose peak has no libraries
    return {"seconds": statistics.median(times), "memory_mb": peak, "own_memory_mb": own, "trained": moving}


def arithmetic(task: TaskSpec, size: int, backbone: str, style: str) -> float:
    """Floating-point operations of a step with a frozen body: forward, and the gradient of activations alone."""
    layers, width, matrices, behind = sizes(backbone)
    tokens = size * task.max_length
    linear = 2 * tokens * matrices * layers
    attention = 2 * 2 * tokens * task.max_length * width * layers
    if STYLES[style] is our_step:  # in the last block tokens that do not answer are queries, keys and values alone
        others = size * (task.max_length - task.answer_tokens)
        linear -= 2 * others * behind
        attention -= 2 * 2 * others * task.max_length * width
    return 2 * linear + 3 * attention  # both products of attention are differentiated on both sides


def sizes(backbone: str) -> tuple[int, int, int, int]:
    """Layers, width, the numbers in a block's matrices, and in those of them that stand behind its attention."""
    model_type, fields = ARCHITECTURES[backbone]
    if model_type == "gpt2":
        width = fields["n_embd"]
        return fields["n_layer"], width, 12 * width**2, 9 * width**2
    width = fields["hidden_size"]
    groups = width * fields["num_key_value_heads"] // fields["num_attention_heads"]
    behind = width**2 + 3 * width * fields["intermediate_size"]
    return fields["num_hidden_layers"], width, width**2 + 2 * width * groups + behind, behind


def matrix_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """The machine's matrix rate in operations a second: the faster of torch's kernels at GPT-2's own shape."""
    x, weight = (torch.randn(size, 768, device=device).to(dtype) for size in (1024, 3072))
    kernels: list[Callable[[], torch.Tensor]] = [lambda: x @ weight.T]
    if device == "cpu" and dtype == torch.bfloat16 and not multiplies_bf16():
        kernels = [lambda: (x.float() @ weight.float().T).to(dtype)]
    elif device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        kernels.append(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""))
    rates = []
    for kernel in kernels:
        for _ in range(2):
            kernel()
        start, done = time.perf_counter(), 0
        while done < 30 and (done < 3 or time.perf_counter() - start < 2):
            kernel()
            done += 1
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(done * 2 * 1024 * 768 * 3072 / (time.perf_counter() - start))
    return max(rates)


def in_own_process(precision: str, style: str, case: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Calls :func:`measure` in a fresh process, so that peak memory is its own."""
    words = ["--measure", style, precision, case, "--backbone", arguments.backbone, "--device", arguments.device]
    words += ["--seconds", str(arguments.seconds)]
    environment = {**os.environ, **(huge_pages() if style == "ours" else {})}
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All styles in turn, the median over the repeats, and repeat by repeat how much faster than plain fp32 each is."""
    possible = {"peft": find_spec("peft") is not None, "small pages": bool(huge_pages())}
    styles = [style for style in arguments.styles if possible.get(style, True)]
    if "peft" in {*arguments.styles} - {*styles}:
        print("no rows of peft, which is not installed")
    ways = list(product(arguments.precisions, styles))
    rows = []
    print(f"{'case':<24}{'precision':<11}{'style':<12}{'steps/s':>9}{'MiB':>8}{'matrix rate':>13}{'ratio':>8}")
    for case in arguments.cases:
        size, task = CASES[case]
        found = [{way: in_own_process(*way, case, arguments) for way in ways} for _ in range(arguments.repeats)]
        rates = {precision: matrix_rate(arguments.device, PRECISIONS[precision]) for precision in arguments.precisions}
        for way in ways:
            precision, style = way
            median = {name: statistics.median(each[way][name] for each in found) for name in found[0][way]}
            row = {
                "case": case, "precision": precision, "style": style, "steps_per_second": 1 / median["seconds"],
                "memory_mb": median["memory_mb"], "own_memory_mb": median["own_memory_mb"],
                "trained": round(median["trained"]),
                "share": arithmetic(task, size, arguments.backbone, style) / median["seconds"] / rates[precision],
                "ratio": statistics.median(each[ways[0]]["seconds"] / each[way]["seconds"] for each in found),
                "matrix_rate_gflops": rates[precision] / 1e9,
            }  # fmt: skip
            rows.append(row)
            print(
                f"{case:<24}{precision:<11}{style:<12}{row['steps_per_second']:>9.2f}{row['memory_mb']:>8.0f}"
                f"{row['share']:>12.0%}{row['ratio']:>8.2f}",
                flush=True,
            )
    return rows


def overhead(arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step of a bare loop and of `fpt run`, in turn, on bit-xor with the small backbone."""
    bare, run = [], []
    for _ in range(arguments.repeats + 2):
        data = BitXOR()
        batches = iter(data.train_dataloader())
        model = FrozenPretrainedTransformer(data.task, BackboneChoice("small")).to(arguments.device)

        def next_batch(batches: Any = batches) -> Batch:
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
    parser.add_argument("--backbone", default="gpt2", choices=BACKBONES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each row of a case is measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, help="only these")
    parser.add_argument("--styles", nargs="+", default=list(STYLES), choices=STYLES, help="only these")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS, help="only these")
    parser.add_argument("--steps", type=int, default=300, help="steps of each run whose overhead is measured")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    parser.add_argument("--measure", nargs=3, metavar=("STYLE", "PRECISION", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, arguments)))
        return
    rows, added = compare(arguments), overhead(arguments)
    shown = f"{added['fpt_run_ms']:.1f} ms a step, a bare loop {added['bare_ms']:.1f} ms, {added['added']:.1%} added"
    print(f"\nfpt run: {shown}")
    if arguments.out:
        about = {"machine": machine(arguments.device), "backbone": arguments.backbone}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**about, "steps": rows, "overhead": added}, indent=2) + "\n")


if __name__ == "__main__":
    main()
