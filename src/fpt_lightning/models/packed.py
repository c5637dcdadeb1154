"""Many models of one frozen body as one: what is frozen computes for all of them at once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fpt_lightning.errors import FPTError, first_line
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.kernels.replicas import is_looped, replicated

Stack = Callable[[Any], Tensor]


class BatchSize:
    """The examples of one model in the batch at hand; the modules of a pack share it."""

    size = 0


class Replicated(nn.Module):
    """A module of every model, of which each sees its own share of a batch ``[models * batch, ...]``.

    Args:
        modules: The module of each model.
        batch: What knows how many examples each model has in the batch at hand.
        stack: Makes one tensor of the same parameter of every model.
    """

    def __init__(self, modules: Sequence[nn.Module], batch: BatchSize, stack: Stack) -> None:
        super().__init__()
        self.replicas = nn.ModuleList(modules)
        self._batch, self._stack = batch, stack
        self._linear = all(type(module) is nn.Linear for module in modules)

    @property
    def weight(self) -> Tensor:
        """The first one's, as peft asks for its precision; whoever computes with it is found out by the check."""
        weight = self.replicas[0].weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Applies each to its own; an input with the batch of one model, or of 1 as position ids have it, is all's."""
        count = len(self.replicas)
        if self._linear and not is_looped():
            return self._products(inputs[0])
        folded = [x is not None and len(x) > self._batch.size for x in inputs]
        shares = [
            x.chunk(count) if own and x is not None else [x] * count for x, own in zip(inputs, folded, strict=True)
        ]
        answers = [module(*share) for module, *share in zip(self.replicas, *shares, strict=True)]
        if not any(folded):
            answers = [answer.expand(self._batch.size, *answer.shape[1:]) for answer in answers]
        return torch.cat(answers)

    def _products(self, x: Tensor | None) -> Tensor:
        """Every linear layer on its share in one call: of small ones the calls take longer than the products."""
        assert x is not None
        layers = [layer for layer in self.replicas if isinstance(layer, nn.Linear)]
        weight = self._stack([layer.weight for layer in layers])
        if len(x) == self._batch.size:
            shares = x.flatten(0, -2).T.expand(len(layers), -1, -1)
        else:
            shares = x.reshape(len(layers), -1, x.size(-1)).mT
        # in this order the gradient of the weights comes as they lie, in half the time
        if biases := [layer.bias for layer in layers if layer.bias is not None]:
            answer = torch.baddbmm(self._stack(biases).unsqueeze(2), weight, shares)
        else:
            answer = weight @ shares  # [models, out, batch * length]
        return answer.mT.reshape(-1, *x.shape[1:-1], weight.size(1))


class PackedTransformer(nn.Module):
    """Several :class:`FrozenPretrainedTransformer` that differ in their trained parameters alone, run as one.

    Activations of all models follow each other in the batch. Modules with trained parameters are those of the models,
    each on its own share; all others compute once, for the whole batch. What a model's parameters and their gradients
    are stays what it was, so a model may leave at any time, or run alone.

    Args:
        models: The models, at least two; their frozen parameters become the first one's.
        stack: Makes one tensor of the same parameter of every model.

    Raises:
        FPTError: If they differ in more than their trained parameters, or their body has a form that cannot be shared.
    """

    def __init__(self, models: Sequence[FrozenPretrainedTransformer], stack: Stack = torch.stack) -> None:
        super().__init__()
        first = models[0]
        for model in models[1:]:
            share_frozen(first, model)
        self.count = len(models)
        self._batch = BatchSize()
        shared = {id(tensor): tensor for tensor in [*first.parameters(), *first.buffers()]}
        self.model = copy.deepcopy(first, shared)  # new modules around the same tensors
        for path in _with_trained(first):
            modules = [model.get_submodule(path) for model in models]
            self.model.set_submodule(path, Replicated(modules, self._batch, stack))
        self._check(models)

    def forward(
        self, tokens: Sequence[Tensor], masks: Sequence[Tensor | None], places: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        """Answers a batch for every model.

        Args:
            tokens: For every model ``[batch, length, token_width]``, or ids ``[batch, length]``.
            masks: For every model ``[batch, length]`` bool, or None; shorter batches are padded to the longest.
            places: Those of the examples in their split, where all models evaluate the same ones.

        Returns:
            For every model its logits ``[batch, answers, classes]``.
        """
        return self.folded(tokens, masks, places).chunk(self.count)

    def folded(
        self, tokens: Sequence[Tensor], masks: Sequence[Tensor | None], places: Sequence[int] | None = None
    ) -> Tensor:
        """What :meth:`forward` answers, as one tensor ``[models * batch, answers, classes]``."""
        self._batch.size = len(tokens[0])
        if self.model.reads_features and all(batch is tokens[0] for batch in tokens):
            together, mask = tokens[0], None  # nothing comes before the layer that trains
        else:
            together, mask = fold(tokens, masks)
        logits: Tensor = self.model(together, mask, None if places is None else [*places] * self.count)
        return logits

    @torch.no_grad()
    def _check(self, models: Sequence[FrozenPretrainedTransformer]) -> None:
        """Compares with the models alone, on two examples of few tokens, while their parameters differ."""
        example = _example(models[0])
        modes = [(model, model.training) for model in (self, *models)]
        saved = [[parameter.clone() for parameter in model.trained_parameters().values()] for model in models]
        noise = torch.Generator().manual_seed(0)
        for model, _ in modes:
            model.eval()
        for model in models:
            for parameter in model.trained_parameters().values():
                parameter.add_(torch.randn(parameter.shape, generator=noise).to(parameter), alpha=0.2)
        try:
            alone = [model(example) for model in models]
            together = self([example] * self.count, [None] * self.count, range(len(example)))
            self._expect_dropout_of_ours(example)
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise FPTError(f"a body of this form cannot be packed: {first_line(error)}") from error
        finally:
            for model, values in zip(models, saved, strict=True):
                torch._foreach_copy_(list(model.trained_parameters().values()), values)
            for model, training in modes:
                model.train(training)
        for own, packed in zip(alone, together, strict=True):
            if not torch.allclose(packed, own, rtol=1e-3, atol=1e-4 * float(own.abs().max())):
                raise FPTError("a body of this form cannot be packed: it answers otherwise than alone")

    def _expect_dropout_of_ours(self, example: Tensor) -> None:
        """Refuses a body with a dropout that asks torch's global generator, in which every run has a part."""
        self.train()
        before = torch.get_rng_state()
        with replicated([torch.Generator() for _ in range(self.count)]):
            self([example] * self.count, [None] * self.count)
        if not torch.equal(before, torch.get_rng_state()):
            torch.set_rng_state(before)
            raise FPTError("a body of this form cannot be packed: not all of its dropout is drawn for each run alone")


def _example(model: FrozenPretrainedTransformer) -> Tensor:
    """Two examples of few tokens, or their features where it reads those."""
    task, like = model.task, next(iter(model.trained_parameters().values()))
    if model.reads_features:
        numbers = 2 * task.answer_tokens * model.family.width
        return torch.linspace(-1, 1, numbers).to(like).view(2, task.answer_tokens, -1)
    length = max(min(task.max_length, 8), task.answer_tokens)
    if task.vocabulary_size is None:
        assert task.token_width is not None
        return torch.linspace(-1, 1, 2 * length * task.token_width).to(like).view(2, length, -1)
    return (torch.arange(2 * length, device=like.device) % task.vocabulary_size).view(2, length)


def share_frozen(first: FrozenPretrainedTransformer, model: FrozenPretrainedTransformer) -> None:
    """Lets a model use the frozen parameters of another; its own, which have the same values, are freed.

    Raises:
        FPTError: If the two differ in more than the values of what trains.
    """
    trained = [{name: each.shape for name, each in one.trained_parameters().items()} for one in (first, model)]
    shared, own = first.frozen_parameters(), model.frozen_parameters()
    same = {
        "task": first.task == model.task,
        "trained parts": trained[0] == trained[1],
        "frozen weights": shared.keys() == own.keys() and all(_equal(shared[name], own[name]) for name in own),
    }
    if different := [what for what, is_same in same.items() if not is_same]:
        drawn = model.choice.resolved_initialization != "pretrained" and model.choice.backbone_seed is None
        is_of_seed = different[0] == "frozen weights" and drawn
        way_out = ", which their seeds draw: add --model.backbone_seed 0" if is_of_seed else ""
        raise FPTError(f"the runs of a pack must have the same {different[0]}{way_out}")
    for name, parameter in shared.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, parameter)  # not its data alone: each would move a copy to a device
    model.keep_hash(first.frozen_hash())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))  # in a third of the time of a hash


def fold(tokens: Sequence[Tensor], masks: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Batches one after the other, padded to the longest: ``[models * batch, length, ...]`` and their mask, if any."""
    longest = max(batch.size(1) for batch in tokens)
    if all(mask is None for mask in masks) and all(batch.size(1) == longest for batch in tokens):
        return torch.cat(list(tokens)), None
    whole = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if m is None else m
             for x, m in zip(tokens, masks, strict=True)]  # fmt: skip
    return torch.cat([_padded(x, longest) for x in tokens]), torch.cat([_padded(x, longest) for x in whole])


def _padded(x: Tensor, length: int) -> Tensor:
    if x.size(1) == length:
        return x
    return torch.cat([x, x.new_zeros(len(x), length - x.size(1), *x.shape[2:])], dim=1)


def _with_trained(model: nn.Module) -> list[str]:
    """The paths of modules that hold a trained parameter themselves."""
    return [
        path
        for path, module in model.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]
