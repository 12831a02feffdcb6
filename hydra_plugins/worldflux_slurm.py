"""Hydra takes launchers from here only; what this one does is in worldflux/slurm."""

from worldflux.slurm import launcher


class SlurmLauncher(launcher.SlurmLauncher):
    """`hydra/launcher=slurm`."""
