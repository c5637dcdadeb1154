"""Faster forms of what torch and transformers do already; they change no result."""
