"""One run: its folder, outcome, result, metrics and learning curve."""
