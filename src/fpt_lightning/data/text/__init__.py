"""Books as tokens, for language models."""
