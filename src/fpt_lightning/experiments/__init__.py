"""Many runs: the tables of an ``experiments.yaml`` as runs, whoever makes them, and what came out as a page."""
