"""Modalities: each hands over batches and a TaskSpec, and knows nothing of models."""

PUBLISHED = frozenset({"BitMemory", "BitXOR", "CIFAR10", "CIFAR10LRA", "ListOps", "MNIST", "RemoteHomology"})
"""Datamodules whose data is published or generated, so the same in whatever folder it lies; any other's is a user's."""
