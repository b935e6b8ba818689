"""How programs run: stages and their state, jobs, Ray, Slurm, devices, options, training."""
