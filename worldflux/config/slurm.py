"""What a job asks of Slurm: the values of `hydra/launcher=slurm`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from worldflux.config.base import CheckedConfig
from worldflux.config.options import option
from worldflux.errors import ConfigurationError

# Options of sbatch that jobs need to be found, signalled and continued.
RESERVED = ("array", "comment", "error", "open-mode", "output", "requeue", "signal")

GROUP = "hydra.launcher"


@dataclass
class SlurmConfig(CheckedConfig):
    """What every job of a sweep asks for. None leaves a value to the cluster's own default."""

    removed: ClassVar[dict[str, str]] = {
        "name": "jobs are named after their sweep",
        "comment": "WorldFlux finds its jobs by their comment",
        "submitit_folder": "logs lie in the folders of the jobs",
    }

    partition: str | None = option(
        None,
        help="Partition that jobs are queued in; null leaves it to the cluster, as for every key here.",
    )
    account: str | None = option(None, help="Account that is charged.")
    qos: str | None = option(None, help="Quality of service of the jobs.")
    constraint: str | None = option(
        None, help="Features that a node must have, as sbatch --constraint knows them."
    )
    exclude: str | None = option(None, help="Nodes that no job may run on.")
    timeout_min: int = option(
        60,
        at_least=1,
        unit="minutes",
        help="Time limit of a job. One that reaches it writes a checkpoint and is requeued, so it need not hold a whole run.",
    )
    signal_delay_s: int = option(
        120,
        above=0,
        unit="seconds",
        help="How long before the time limit a job is signalled to write its checkpoint; it must cover the longest update and save.",
    )
    max_num_timeout: int = option(
        1000, at_least=0, unit="times", help="How often a job may reach its limit and be requeued."
    )
    nodes: int = option(1, at_least=1, unit="nodes", help="Nodes of each job.")
    tasks_per_node: int = option(
        1,
        at_least=1,
        unit="processes",
        help="Processes on each node; more than one task in all are the ranks of one data-parallel run.",
    )
    cpus_per_task: int = option(
        1,
        at_least=1,
        unit="cores",
        help="Cores of each task, and the threads that PyTorch uses unless OMP_NUM_THREADS is set.",
    )
    gpus_per_node: int | None = option(None, at_least=0, unit="GPUs", help="GPUs of each node.")
    mem_gb: float | None = option(None, above=0, unit="gigabytes", help="Memory of each node.")
    gres: str | None = option(
        None, help="Generic resources, as sbatch --gres knows them (gpu:a100:1)."
    )
    array_parallelism: int = option(
        256, at_least=1, unit="jobs", help="Jobs of a sweep that may run at once."
    )
    setup: list[str] = option(
        factory=list,
        help="Shell lines to run on the node before the job, such as module load cuda.",
    )
    srun_args: list[str] = option(factory=list, help="Further options of srun.")
    additional_parameters: dict[str, Any] = option(
        factory=dict,
        help="Further options of sbatch, by name; those that jobs need to be found and continued are refused.",
    )
    poll_s: float = option(
        15.0, above=0, unit="seconds", help="Longest time between two looks at the queue."
    )

    def _validate(self) -> None:
        if self.signal_delay_s >= 60 * self.timeout_min:
            text = f"must be less than the time limit of {self.timeout_min} min"
            raise self.refuse("signal_delay_s", f"{text}, got {self.signal_delay_s}")
        names = {item.name.replace("_", "-") for item in dataclasses.fields(self)}
        for parameter in self.additional_parameters:
            word = parameter.lstrip("-").replace("_", "-")
            key = f"additional_parameters.{parameter}"
            if word in RESERVED:
                raise self.refuse(key, "cannot be set: jobs need it to be found and continued")
            if word in names:
                raise self.refuse(key, f"has a key of its own: {word.replace('-', '_')}")

    def sbatch(self) -> dict[str, Any]:
        """The same in the words of submitit's executor for Slurm."""
        options = self.to_dict()
        for name in ("max_num_timeout", "poll_s"):
            del options[name]
        options["time"] = options.pop("timeout_min")
        options["ntasks_per_node"] = options.pop("tasks_per_node")
        if (gigabytes := options.pop("mem_gb")) is not None:
            options["mem"] = f"{round(1024 * gigabytes)}M"
        # srun does not take this over from sbatch in every version of Slurm.
        options["srun_args"] = [f"--cpus-per-task={self.cpus_per_task}", *self.srun_args]
        options["setup"] = [
            "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}",
            *self.setup,
        ]
        # Clusters may forbid requeueing unless a job asks for it.
        options["additional_parameters"] = {"requeue": True, **self.additional_parameters}
        return {name: value for name, value in options.items() if value is not None}


def slurm_config(values: Mapping[str, Any]) -> SlurmConfig:
    """The checked values; a complaint names the key as it is written on the command line."""
    try:
        return SlurmConfig(**values)
    except ConfigurationError as error:
        raise error.within(GROUP) from None
