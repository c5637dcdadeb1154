"""Faster forms of what torch and transformers do already; the same but for rounding and the numbers dropout draws."""
