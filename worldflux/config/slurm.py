"""What a job asks of Slurm: the values of `hydra/launcher=slurm`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from worldflux.config.base import CheckedConfig
from worldflux.errors import ConfigurationError

# Options of sbatch that jobs need to be found, signalled and continued.
OWN_OPTIONS = ("array", "comment", "error", "open-mode", "output", "requeue", "signal")

GROUP = "hydra.launcher"


@dataclass
class SlurmConfig(CheckedConfig):
    """What every job of a sweep asks for. None leaves a value to the cluster's own default.

    partition, account, qos, constraint, exclude: as sbatch knows them.
    timeout_min: the time limit in minutes; a job that reaches it writes a checkpoint and is
    requeued, so it need not hold a whole run.
    signal_delay_s: seconds before the limit at which a job is told to write its checkpoint.
    max_num_timeout: how often a job may reach its limit and be requeued.
    nodes, tasks_per_node: more than one task in all are the ranks of one data-parallel run.
    cpus_per_task: also the threads that PyTorch uses, unless OMP_NUM_THREADS is set.
    gpus_per_node, mem_gb (gigabytes per node), gres: as sbatch knows them.
    array_parallelism: how many jobs of a sweep may run at once.
    setup: shell lines to run on the node before the job, such as `module load cuda`.
    srun_args: further options of srun. additional_parameters: further options of sbatch.
    poll_s: most seconds between two looks at the queue.
    """

    removed: ClassVar[dict[str, str]] = {
        "name": "jobs are named after their sweep",
        "comment": "WorldFlux finds its jobs by their comment",
        "submitit_folder": "logs lie in the folders of the jobs",
    }

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    timeout_min: int = 60
    signal_delay_s: int = 120
    max_num_timeout: int = 1000
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    gres: str | None = None
    array_parallelism: int = 256
    setup: list[str] = field(default_factory=list)
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    poll_s: float = 15.0

    def _validate(self) -> None:
        self._at_least(
            1, "timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "array_parallelism"
        )
        self._at_least(0, "max_num_timeout")
        self._above(0, "signal_delay_s", "poll_s")
        if self.gpus_per_node is not None:
            self._at_least(0, "gpus_per_node")
        if self.mem_gb is not None:
            self._above(0, "mem_gb")
        if self.signal_delay_s >= 60 * self.timeout_min:
            text = f"signal_delay_s must be less than the time limit of {self.timeout_min} min"
            raise self.refuse(f"{text}, got {self.signal_delay_s}")
        names = {item.name.replace("_", "-") for item in dataclasses.fields(self)}
        for option in self.additional_parameters:
            spelled = str(option).lstrip("-").replace("_", "-")
            if spelled in OWN_OPTIONS:
                text = f"additional_parameters.{option} cannot be set"
                raise self.refuse(f"{text}: jobs need it to be found and continued")
            if spelled in names:
                key = spelled.replace("-", "_")
                raise self.refuse(f"additional_parameters.{option} has a key of its own: {key}")

    def sbatch(self) -> dict[str, Any]:
        """The same in the words of submitit's executor for Slurm."""
        asked = self.to_dict()
        for name in ("max_num_timeout", "poll_s"):
            del asked[name]
        asked["time"] = asked.pop("timeout_min")
        asked["ntasks_per_node"] = asked.pop("tasks_per_node")
        if (gigabytes := asked.pop("mem_gb")) is not None:
            asked["mem"] = f"{round(1024 * gigabytes)}M"
        # srun does not take this over from sbatch in every version of Slurm.
        asked["srun_args"] = [f"--cpus-per-task={self.cpus_per_task}", *self.srun_args]
        asked["setup"] = [
            "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}",
            *self.setup,
        ]
        # Clusters may forbid requeueing unless a job asks for it.
        asked["additional_parameters"] = {"requeue": True, **self.additional_parameters}
        return {name: value for name, value in asked.items() if value is not None}


def slurm_config(values: Mapping[str, Any]) -> SlurmConfig:
    """The checked values; a complaint names the key as it is written on the command line."""
    try:
        return SlurmConfig(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{GROUP}.{error}") from None
