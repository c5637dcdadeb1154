r"""Makes the folder of a backbone that ships with the package, and its card, of a run of a config in `pretrain/`.

Weights are rounded to bf16; every figure of the card is measured on the rounded weights, of a language of books over
the whole of those that were held out.

    python benchmarks/ngram_baseline.py --root FOLDER --out ngram.json
    python tools/pack_pocket.py --run runs/language/000 --config pretrain/language.yaml --ngram ngram.json \
        --compute "..." --out src/fpt_lightning/assets/pocket
"""

import argparse
import csv
import hashlib
import inspect
import json
import math
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader
from transformers import GPT2LMHeadModel

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.text.datamodule import TextFolder
from fpt_lightning.models.kernels.attention import use_attention
from fpt_lightning.training.language.generation import copying_gain
from fpt_lightning.training.language.pretraining import LanguageModel

TEXTS = Path(__file__).with_name("pocket_card.yaml")


@torch.no_grad()
def mean_loss(model: GPT2LMHeadModel, loader: DataLoader[Any]) -> float:
    """Nats a token over all windows of a split."""
    losses = []
    for batch in loader:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch.tokens).logits.float()
        losses.append(F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), reduction="none").mean().item())
    return sum(losses) / len(losses)


def course(run: Path, most: int = 12) -> str:
    """Rows of the card: what validation measured, at most so many."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    chosen = (
        {round(place * (len(rows) - 1) / (most - 1)) for place in range(most)} if len(rows) > most else range(len(rows))
    )
    return "\n".join(
        f"| {int(rows[place]['step']) + 1:,} | {float(rows[place]['val_perplexity']):.1f} "
        f"| {float(rows[place]['val_copying_gain']):.2f} |"
        for place in sorted(chosen)
    )


def datamodule(config: dict[str, Any]) -> FPTDataModule:
    """The data of a run, all windows of its held-out books."""
    kind = resolve_name(config["class_path"])
    whole = {"evaluation_windows": None} if kind is TextFolder else {}
    data: FPTDataModule = kind(**{**config["init_args"], **whole, "eval_batch_size": 16})
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def facts_of_books(data: TextFolder, ngram: Path, seen: int) -> dict[str, Any]:
    """What the card says of the texts."""
    figures = json.loads(ngram.read_text())
    order = next(name for name in figures if name.endswith("-gram"))
    books, tokens = len(list(Path(data.root).rglob("*.txt"))), len(data.corpus.tokens["train"])
    return {
        "books": books, "training_books": books - data.validation_books - data.test_books,
        "validation_books": data.validation_books, "test_books": data.test_books, "training_tokens": tokens,
        "epochs": seen / tokens, "repeat": data.repeat_share, "order": order, "ngram": figures[order],
        "unigram": figures["unigram"],
    }  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--config", required=True, help="the config that it is a run of, such as pretrain/dyck.yaml")
    parser.add_argument("--ngram", type=Path, help="the JSON of benchmarks/ngram_baseline.py, where it read books")
    parser.add_argument("--compute", required=True, help="the machine and the time, for the card")
    parser.add_argument("--note", default="", help="another line under the training, for the card")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(words)
    config: dict[str, Any] = yaml.safe_load((arguments.run / "config.yaml").read_text())
    data, options = datamodule(config["data"]), config["data"]["init_args"]
    checkpoint = torch.load(arguments.run / "checkpoints" / "best.ckpt", weights_only=True)
    module = LanguageModel(data.task, **config["model"]["init_args"])
    module.load_state_dict(checkpoint["state_dict"])
    module.model.to(torch.bfloat16)
    module.save_backbone(arguments.out, getattr(data, "tokenizer", None))
    model = GPT2LMHeadModel.from_pretrained(arguments.out, dtype=torch.float32).eval()
    use_attention(model.config, blockwise=True)
    weights = arguments.out / "model.safetensors"
    weights.chmod(0o644)
    loss = {"validation": mean_loss(model, data.val_dataloader()), "test": mean_loss(model, data.test_dataloader())}
    steps, batch, context = checkpoint["global_step"], options["batch_size"], options["context"]
    seen = steps * batch * context
    matrices = 12 * model.config.n_layer * model.config.n_embd**2 + model.config.vocab_size * model.config.n_embd
    attention = 6 * model.config.n_layer * model.config.n_embd * context
    gain = copying_gain(model).item()
    if isinstance(data, TextFolder):
        of_data = facts_of_books(data, arguments.ngram, seen)
    else:
        of_data = {"kinds": options["kinds"], "windows": options["evaluation_windows"]}
    facts = {
        "name": arguments.out.name, "layers": model.config.n_layer, "width": model.config.n_embd,
        "heads": model.config.n_head, "positions": model.config.n_positions, "parameters": model.num_parameters(),
        "embedding": model.config.vocab_size * model.config.n_embd, "vocabulary": model.config.vocab_size,
        "megabytes": weights.stat().st_size / 1e6, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "command": command(config, arguments.config), "steps": steps, "batch": batch, "context": context, "seen": seen,
        "arithmetic": "bf16 autocast" if "bf16" in str(config["trainer"]["precision"]) else "fp32",
        "lr": module.lr, "warmup": module.warmup_steps, "weight_decay": module.weight_decay,
        "moved": module.moved_share, "compute": arguments.compute,
        "petaflops": seen * (6 * matrices + attention) / 1e15,
        "note": f"- {arguments.note}\n" if arguments.note else "",
        **{f"{split}_loss": value for split, value in loss.items()},
        **{f"{split}_perplexity": math.exp(value) for split, value in loss.items()},
        "copying": gain, "gained": gain / math.log(model.config.vocab_size), "course": course(arguments.run), **of_data,
    }  # fmt: skip
    texts = yaml.safe_load(TEXTS.read_text())
    said = {name: text.format(**facts) for name, text in texts[type(data).__name__].items()}
    said["copies"] = said["copied"] if options.get("repeat_share") else said["plain"]
    text = texts["card"].format(**facts, **said)
    (arguments.out / "MODEL_CARD.md").write_text(text)
    print(text)


def command(config: dict[str, Any], name: str) -> str:
    """The command that repeats a run: the shipped config, and what differs from it."""
    shipped = yaml.safe_load((Path(__file__).parents[1] / "configs" / name).read_text())
    words = ["fpt fit", f"--config {name}"]
    for group, kind in {"data": resolve_name(config["data"]["class_path"]), "model": LanguageModel}.items():
        found = config[group]["init_args"]
        own = {each: parameter.default for each, parameter in inspect.signature(kind).parameters.items()}
        expected = {each: value for each, value in own.items() if each in found} | shipped[group]["init_args"]
        told = {each: found[each] for each, value in expected.items() if found[each] != value}
        words += [f"--{group}.{each} {'FOLDER' if each == 'root' else value}" for each, value in told.items()]
    options = ("precision", "max_steps", "val_check_interval")
    words += [f"--trainer.{each} {config['trainer'][each]}" for each in options if config["trainer"][each] is not None]
    return " ".join([*words, f"--seed_everything {config['seed_everything']}"])


if __name__ == "__main__":
    main()
