"""What a training leaves behind: checkpoints, trained parts alone, a model to carry elsewhere."""
