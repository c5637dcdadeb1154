"""Adam for the trained parameters of several runs at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Groups = list[dict[str, Any]]
"""The groups of one run, as :func:`fpt_lightning.training.optimizer.parameter_groups` gives them."""


ALIGNED = 64
"""Numbers between two places where torch would begin a tensor: the 64 bytes of its allocator, in whatever precision."""


class PackedAdam(Optimizer):
    """Adam with torch's defaults, for every run at rates of its own, in a handful of operations for all.

    The parameters of all runs become rows of one tensor ``[runs, numbers]``, of which they are views, and so do their
    gradients and moments. Every number takes the steps of ``torch.optim.Adam(foreach=True)`` to the last bit.

    Args:
        runs: The groups of every run, alike but for their rates.
    """

    def __init__(self, runs: Sequence[Groups]) -> None:
        self._runs = [list(groups) for groups in runs]
        super().__init__([group for groups in self._runs for group in groups], {"lr": 1e-3})
        self.betas, self.eps = (0.9, 0.999), 1e-8
        self.steps = [0] * len(self._runs)
        self._flatten()
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)

    @torch.no_grad()
    def _flatten(self) -> None:
        """Lays the values of every run into a row, and gradients likewise."""
        first, last = self._runs[0][0]["params"][0], [columns.stop for _, columns in _laid_out(self._runs[0])][-1]
        self.values = first.new_zeros(len(self._runs), _aligned(last))
        self.gradients = torch.zeros_like(self.values)
        self._places: list[tuple[Tensor, Tensor]] = []  # of every gradient
        for row, gradients, run in zip(self.values, self.gradients, self._runs, strict=True):
            for parameter, columns in _laid_out(run):
                row[columns] = parameter.detach().flatten()
                parameter.data = row[columns].view(parameter.shape)
                self._places.append((parameter, gradients[columns].view(parameter.shape)))
        self._slices = list(self._groups_laid_out())  # once, and not at every step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zeroes the gradients where they are, and puts them back where somebody took them away."""
        self.gradients.zero_()
        for parameter, gradient in self._places:
            parameter.grad = gradient

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Steps every run."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        beta1, beta2 = self.betas
        self.steps = [step + 1 for step in self.steps]
        self.first.lerp_(self.gradients, 1 - beta1)
        self.second.mul_(beta2).addcmul_(self.gradients, self.gradients, value=1 - beta2)
        divisor = self.second.sqrt()
        # by numbers, not by a tensor of them: a GPU would wait for its copy
        torch._foreach_div_(list(divisor), [(1 - beta2**step) ** 0.5 for step in self.steps])
        divisor.add_(self.eps)
        torch._foreach_addcdiv_(
            [self.values[run, columns] for run, columns, _ in self._slices],
            [self.first[run, columns] for run, columns, _ in self._slices],
            [divisor[run, columns] for run, columns, _ in self._slices],
            [-(group["lr"] / (1 - beta1 ** self.steps[run])) for run, _, group in self._slices],
        )
        return loss

    def clip(self, largest: float) -> None:
        """Scales the gradient of each run to a norm of at most ``largest``, as ``clip_grad_norm_`` does for one."""
        parts = torch.stack(torch._foreach_norm([gradient for _, gradient in self._places])).chunk(len(self._runs))
        norms = torch.stack([torch.linalg.vector_norm(own) for own in parts])
        self.gradients.mul_((largest / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1))

    def keep(self, kept: Sequence[int]) -> None:
        """Takes out all runs but some; those go on with the moments that they have."""
        self.first, self.second = self.first[list(kept)], self.second[list(kept)]
        self.steps = [self.steps[run] for run in kept]
        gone = [self._runs[run] for run in range(len(self._runs)) if run not in kept]
        self._runs = [self._runs[run] for run in kept]
        self.param_groups = [group for groups in self._runs for group in groups]
        self._flatten()
        for run in gone:  # memory of their own, so that the pack's is freed
            for parameter in _parameters(run):
                parameter.data, parameter.grad = parameter.data.clone(), None

    def state_of(self, run: int) -> dict[str, Any]:
        """The state of one run, as ``torch.optim.Adam`` would have it alone."""
        alone = torch.optim.Adam(
            [{**group, "params": list(group["params"])} for group in self._runs[run]], lr=self._runs[run][0]["lr"],
            betas=self.betas, eps=self.eps, foreach=True,
        )  # fmt: skip
        for parameter, columns in _laid_out(self._runs[run]):
            alone.state[parameter] = {
                "step": torch.tensor(float(self.steps[run])),
                "exp_avg": self.first[run, columns].view(parameter.shape).clone(),
                "exp_avg_sq": self.second[run, columns].view(parameter.shape).clone(),
            }
        return alone.state_dict()

    @torch.no_grad()
    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes the moments of every run from what :meth:`state_of`, or Adam alone, has saved."""
        for run, saved in enumerate(states):
            own = [saved["state"][index] for group in saved["param_groups"] for index in group["params"]]
            self.steps[run] = int(own[0]["step"])
            for (_, columns), state in zip(_laid_out(self._runs[run]), own, strict=True):
                self.first[run, columns] = state["exp_avg"].flatten().to(self.first)
                self.second[run, columns] = state["exp_avg_sq"].flatten().to(self.second)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What Lightning calls to restore; see :meth:`load_states`."""
        self.load_states(state_dict["runs"])

    def _groups_laid_out(self) -> Iterator[tuple[int, slice, dict[str, Any]]]:
        """Every group with its run and columns."""
        for run, groups in enumerate(self._runs):
            places = iter(_laid_out(groups))
            for group in groups:
                columns = [next(places)[1] for _ in group["params"]]
                yield run, slice(columns[0].start, columns[-1].stop), group


def _laid_out(groups: Groups) -> Iterator[tuple[Tensor, slice]]:
    """The parameters of a run, and where each lies in its row: aligned like a tensor of its own, or products differ."""
    start = 0
    for parameter in _parameters(groups):
        yield parameter, slice(start, start + parameter.numel())
        start = _aligned(start + parameter.numel())


def _aligned(start: int) -> int:
    return -(-start // ALIGNED) * ALIGNED


def _parameters(groups: Groups) -> list[Tensor]:
    return [parameter for group in groups for parameter in group["params"]]
