"""Modalities: each hands over batches and a TaskSpec, and knows nothing of models."""
