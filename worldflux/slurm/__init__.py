"""Running jobs on a Slurm cluster: what to ask for, submitting, watching, continuing."""
