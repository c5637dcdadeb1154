"""What the answers of a run look at: attention maps, their picture, the command."""
