"""A linear layer fitted to features that stay: logistic regression, or least squares for numbers."""

import torch
import torch.nn.functional as F

from fpt_lightning.data.spec import TaskSpec

HISTORY = 2**26
"""Numbers that L-BFGS keeps of earlier gradients, about, and as many of earlier steps: half a gigabyte in all."""


class LinearFit:
    """A linear layer on features in standard units, fitted by L-BFGS from zero.

    Args:
        inputs: ``[examples, features]``; changed in place.
        target: ``[examples, answers]``, classes, or numbers in the data's own units.
        task: Whether there are classes, and what the numbers' standard units are.
    """

    def __init__(self, inputs: torch.Tensor, target: torch.Tensor, task: TaskSpec) -> None:
        self.mean, std = inputs.mean(0), inputs.std(0, correction=0)
        self.std = torch.where(std > 0, std, 1)
        self.inputs, self.task = inputs.sub_(self.mean).div_(self.std), task
        self.target = target if task.classes is not None else task.in_standard_units(target)
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def fit(self, decay: float) -> None:
        """Adds a layer of this weight decay: a weight ``[features, outputs]`` and a bias ``[outputs]``."""
        outputs = self.target.size(1) * self.task.logits_per_answer
        weight = torch.zeros(self.inputs.size(1), outputs, requires_grad=True)
        bias = torch.zeros(outputs, requires_grad=True)
        kept = min(100, max(10, HISTORY // weight.numel()))
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=50, history_size=kept, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            logits = self.inputs @ weight + bias
            if self.task.classes is None:
                error = F.mse_loss(logits, self.target)
            else:
                error = F.cross_entropy(logits.view(-1, self.task.classes), self.target.flatten())
            total = error + decay / 2 * weight.square().sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        self.layers.append((weight.detach(), bias.detach()))

    def answers(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """What each layer answers, ``[examples, answers]``: the likeliest classes, or numbers in own units."""
        scaled = (inputs - self.mean) / self.std
        logits = [scaled @ weight + bias for weight, bias in self.layers]
        if self.task.classes is None:
            return [self.task.in_own_units(each) for each in logits]
        return [each.unflatten(1, (-1, self.task.classes)).argmax(dim=2) for each in logits]
