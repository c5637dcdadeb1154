"""What a language model says: text for the log, and whether it copies from its context."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

REPEATED = 64
"""Random tokens that the probe repeats."""

SEQUENCES = 16


@torch.no_grad()
def copying_gain(model: GPT2LMHeadModel, seed: int = 0) -> torch.Tensor:
    """How much better random tokens are predicted when they come again, in nats a token.

    A sequence of random tokens has nothing to predict it by but its own first appearance, so whatever is gained the
    second time is copied from the context (induction heads, Olsson et al. 2022). A model that cannot copy gains 0, a
    perfect one about the logarithm of the vocabulary.

    Returns:
        The loss on the first appearance less that on the second, a scalar.
    """
    length = min(REPEATED, model.config.n_positions // 2)
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(model.config.vocab_size, (SEQUENCES, length), generator=generator)
    tokens = torch.cat([once, once], dim=1).to(model.device)
    logits = model(input_ids=tokens[:, :-1]).logits.float()
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")  # [sequences, 2 * length - 1]
    # the first token of the repetition cannot be known to be one
    return losses[:, : length - 1].mean() - losses[:, length:].mean()


@torch.no_grad()
def continue_texts(model: GPT2LMHeadModel, tokenizer: Any, starts: list[str], tokens: int, seed: int = 0) -> list[str]:
    """Goes on with texts, each token drawn at temperature 0.8 from the 40 most likely (Radford et al. 2019, section 3).

    The tokenizer is the ``tokenizers.Tokenizer`` that the model was trained with; the generators of the run stay as
    they are.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for start in starts:
        ids = torch.tensor([tokenizer.encode(start).ids], device=model.device)
        for _ in range(tokens):
            logits = model(input_ids=ids[:, -model.config.n_positions :]).logits[0, -1].float().cpu()
            likely = logits.topk(min(40, len(logits)))
            drawn = torch.multinomial((likely.values / 0.8).softmax(dim=0), 1, generator=generator)
            ids = torch.cat([ids, likely.indices[drawn][None].to(ids.device)], dim=1)
        texts.append(tokenizer.decode(ids[0].tolist()))
    return texts
