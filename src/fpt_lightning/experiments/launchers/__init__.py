"""Who makes the runs of a sweep: processes of this machine, Ray or SLURM. Same runs, same ids, same results."""
