"""Runs as folders: where a run lives, what it leaves behind."""
