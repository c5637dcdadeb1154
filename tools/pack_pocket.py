r"""Makes the folder of a backbone that ships with the package, and its card, of a run of `pretrain/language.yaml`.

Weights are rounded to bf16; every figure of the card is measured on the rounded weights, over the whole held-out books.

    python benchmarks/ngram_baseline.py --root FOLDER --out ngram.json
    python tools/pack_pocket.py --run runs/language/000 --root FOLDER --ngram ngram.json --compute "..." \
        --out src/fpt_lightning/assets/pocket
"""

import argparse
import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from transformers import GPT2LMHeadModel

from fpt_lightning.data.datamodule import Split
from fpt_lightning.data.text.datamodule import TextFolder
from fpt_lightning.models.kernels.attention import use_attention
from fpt_lightning.training.language.generation import copying_gain
from fpt_lightning.training.language.pretraining import LanguageModel

CARD = Path(__file__).with_name("pocket_card.md")


@torch.no_grad()
def mean_loss(model: GPT2LMHeadModel, data: TextFolder, split: Split) -> float:
    """Nats a token over all windows of a split."""
    losses = []
    for batch in data._loader(split, 16):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--root", required=True, help="folder of the texts")
    parser.add_argument("--cache", help="folder of their tokens; by default that of the program's cache")
    parser.add_argument("--ngram", type=Path, required=True, help="the JSON of benchmarks/ngram_baseline.py")
    parser.add_argument("--compute", required=True, help="the machine and the time, for the card")
    parser.add_argument("--note", default="", help="another line under the training, for the card")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    config: dict[str, Any] = yaml.safe_load((arguments.run / "config.yaml").read_text())
    options = {**config["data"]["init_args"], "root": arguments.root, "cache_folder": arguments.cache}
    data = TextFolder(**{**options, "evaluation_windows": None})
    checkpoint = torch.load(arguments.run / "checkpoints" / "best.ckpt", weights_only=True)
    module = LanguageModel(data.task, **config["model"]["init_args"])
    module.load_state_dict(checkpoint["state_dict"])
    module.model.to(torch.bfloat16)
    module.save_backbone(arguments.out, data.tokenizer)
    model = GPT2LMHeadModel.from_pretrained(arguments.out, dtype=torch.float32).eval()
    use_attention(model.config, blockwise=True)
    weights = arguments.out / "model.safetensors"
    weights.chmod(0o644)
    loss = {split: mean_loss(model, data, split) for split in ("validation", "test")}
    ngram = json.loads(arguments.ngram.read_text())
    order = next(name for name in ngram if name.endswith("-gram"))
    steps, batch, context = checkpoint["global_step"], options["batch_size"], options["context"]
    matrices = 12 * model.config.n_layer * model.config.n_embd**2 + model.config.vocab_size * model.config.n_embd
    attention = 6 * model.config.n_layer * model.config.n_embd * context
    gain = copying_gain(model).item()
    count = len(list(Path(arguments.root).rglob("*.txt")))
    text = CARD.read_text().format(
        layers=model.config.n_layer, width=model.config.n_embd, heads=model.config.n_head,
        positions=model.config.n_positions, parameters=model.num_parameters(),
        embedding=model.config.vocab_size * model.config.n_embd, vocabulary=model.config.vocab_size,
        megabytes=weights.stat().st_size / 1e6, sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        books=count, training_books=count - data.validation_books - data.test_books,
        validation_books=data.validation_books, test_books=data.test_books,
        training_tokens=len(data.corpus.tokens["train"]), command=command(config), steps=steps, batch=batch,
        context=context, seen=steps * batch * context,
        epochs=steps * batch * context / len(data.corpus.tokens["train"]), lr=module.lr, warmup=module.warmup_steps,
        weight_decay=module.weight_decay, moved=module.moved_share, repeat=data.repeat_share, compute=arguments.compute,
        petaflops=steps * batch * context * (6 * matrices + attention) / 1e15,
        note=f"- {arguments.note}\n" if arguments.note else "",
        **{f"{split}_loss": value for split, value in loss.items()},
        **{f"{split}_perplexity": math.exp(value) for split, value in loss.items()},
        order=order, ngram=ngram[order], unigram=ngram["unigram"], copying=gain,
        share=gain / math.log(model.config.vocab_size), course=course(arguments.run),
    )  # fmt: skip
    (arguments.out / "MODEL_CARD.md").write_text(text)
    print(text)


def command(config: dict[str, Any]) -> str:
    """The command that repeats a run: the shipped config, and what differs from it."""
    shipped = yaml.safe_load((Path(__file__).parents[1] / "configs" / "pretrain" / "language.yaml").read_text())
    words = ["fpt fit --config pretrain/language.yaml --data.root FOLDER"]
    for group in ("data", "model"):
        expected, found = shipped[group]["init_args"], config[group]["init_args"]
        words += [f"--{group}.{name} {found[name]}" for name in expected if found[name] != expected[name]]
    if config["data"]["init_args"]["repeat_share"]:
        words.append(f"--data.repeat_share {config['data']['init_args']['repeat_share']}")
    trainer = config["trainer"]
    words += [f"--trainer.{name} {trainer[name]}" for name in ("precision", "max_steps", "val_check_interval")]
    return " ".join([*words, f"--seed_everything {config['seed_everything']}"])


if __name__ == "__main__":
    main()
