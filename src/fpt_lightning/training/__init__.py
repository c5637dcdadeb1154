"""LightningModules, callbacks and the Trainer."""
