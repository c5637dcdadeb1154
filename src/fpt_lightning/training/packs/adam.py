"""Adam for the trained parameters of several runs at once."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fpt_lightning.errors import FPTError

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

    Raises:
        FPTError: If they are not: a row would not have in its columns what those of the others have.
    """

    def __init__(self, runs: Sequence[Groups]) -> None:
        self._runs = [list(groups) for groups in runs]
        shapes = [[[parameter.shape for parameter in group["params"]] for group in groups] for groups in runs]
        if any(own != shapes[0] for own in shapes):
            raise FPTError("the runs of a pack must name the same parts in model.part_lr, in the same order")
        super().__init__([group for groups in self._runs for group in groups], {"lr": 1e-3})
        self.betas, self.eps = (0.9, 0.999), 1e-8
        self.taken = 0  # steps, of all runs alike
        self._flatten()

    def stacked(self, parameters: Sequence[Tensor]) -> Tensor:
        """The same parameter of every run as one tensor ``[runs, *shape]``, which holds until :meth:`keep`.

        What trains is a leaf that lies where theirs do and whose gradient is added to theirs: one operation for all.
        """
        leaf = self._stacked.get(id(parameters[0]))
        return torch.stack(list(parameters)) if leaf is None else leaf

    @torch.no_grad()
    def _flatten(self, moments: tuple[Tensor, Tensor] | None = None) -> None:
        """Lays the values of every run into a row, and gradients likewise; moments that are not given begin at 0."""
        first, last = self._runs[0][0]["params"][0], [columns.stop for _, columns in _laid_out(self._runs[0])][-1]
        self.values = first.new_zeros(len(self._runs), _aligned(last))
        self.gradients, self.divisor = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.first, self.second = moments or (torch.zeros_like(self.values), torch.zeros_like(self.values))
        self._places: list[tuple[Tensor, Tensor]] = []  # of every gradient
        for row, gradients, run in zip(self.values, self.gradients, self._runs, strict=True):
            for parameter, columns in _laid_out(run):
                row[columns] = parameter.detach().flatten()
                parameter.data = row[columns].view(parameter.shape)
                self._places.append((parameter, gradients[columns].view(parameter.shape)))
        # once, and not at every step
        self._slices = list(self._groups_laid_out())
        cut = ([x[run, columns] for run, columns, _ in self._slices] for x in (self.values, self.first, self.divisor))
        self._values, self._first, self._divisors = cut
        self._gradients = [self.gradients[:, columns] for _, columns in _laid_out(self._runs[0])]
        self._stacked = dict(self._leaves())

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
        self.taken += 1
        self.first.lerp_(self.gradients, 1 - beta1)
        self.second.mul_(beta2).addcmul_(self.gradients, self.gradients, value=1 - beta2)
        torch.sqrt(self.second, out=self.divisor).div_((1 - beta2**self.taken) ** 0.5).add_(self.eps)
        # by numbers, not by a tensor of them: a GPU would wait for its copy
        rates = [-(group["lr"] / (1 - beta1**self.taken)) for _, _, group in self._slices]
        torch._foreach_addcdiv_(self._values, self._first, self._divisors, rates)
        return loss

    def clip(self, largest: float) -> None:
        """Scales the gradient of each run to a norm of at most ``largest``, as ``clip_grad_norm_`` does for one."""
        parts = [torch.linalg.vector_norm(gradients, dim=1) for gradients in self._gradients]
        norms = torch.linalg.vector_norm(torch.stack(parts, dim=1), dim=1)
        self.gradients.mul_((largest / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1))

    def keep(self, kept: Sequence[int]) -> None:
        """Takes out all runs but some; those go on with the moments that they have."""
        gone = [self._runs[run] for run in range(len(self._runs)) if run not in kept]
        self._runs = [self._runs[run] for run in kept]
        self.param_groups = [group for groups in self._runs for group in groups]
        self._flatten((self.first[list(kept)], self.second[list(kept)]))
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
                "step": torch.tensor(float(self.taken)),
                "exp_avg": self.first[run, columns].view(parameter.shape).clone(),
                "exp_avg_sq": self.second[run, columns].view(parameter.shape).clone(),
            }
        return alone.state_dict()

    @torch.no_grad()
    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes the moments of every run from what :meth:`state_of`, or Adam alone, has saved, all at one step."""
        for run, saved in enumerate(states):
            own = [saved["state"][index] for group in saved["param_groups"] for index in group["params"]]
            self.taken = int(own[0]["step"])
            for (_, columns), state in zip(_laid_out(self._runs[run]), own, strict=True):
                self.first[run, columns] = state["exp_avg"].flatten().to(self.first)
                self.second[run, columns] = state["exp_avg_sq"].flatten().to(self.second)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What Lightning calls to restore; see :meth:`load_states`."""
        self.load_states(state_dict["runs"])

    def _leaves(self) -> Iterator[tuple[int, Tensor]]:
        """What :meth:`stacked` says of every parameter of the first run."""
        for parameter, columns in _laid_out(self._runs[0]):
            shape = (len(self._runs), *parameter.shape)
            leaf = self.values[:, columns].view(shape).detach().requires_grad_()
            leaf.register_post_accumulate_grad_hook(partial(_move, self.gradients[:, columns].view(shape)))
            yield id(parameter), leaf

    def _groups_laid_out(self) -> Iterator[tuple[int, slice, dict[str, Any]]]:
        """Every group with its run and columns."""
        for run, groups in enumerate(self._runs):
            places = iter(_laid_out(groups))
            for group in groups:
                columns = [next(places)[1] for _ in group["params"]]
                yield run, slice(columns[0].start, columns[-1].stop), group


def _move(gradients: Tensor, leaf: Tensor) -> None:
    """Adds the gradient of a leaf to those of the runs; as its own they would not lie as torch wants them to."""
    assert leaf.grad is not None
    gradients.add_(leaf.grad)
    leaf.grad = None


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
