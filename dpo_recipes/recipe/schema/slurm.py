"""The `launch.slurm` section: the resources of a SLURM job."""

from pydantic import Field

from dpo_recipes.section import Section


class Slurm(Section):
    """Resources of a SLURM job. Partition, account and similar options depend on the cluster: docs/clusters.md says
    where to give them."""

    time_limit: str | None = Field(
        default=None,
        pattern=r"^([0-9]{1,7}|[0-9]{1,7}:[0-9]{1,2}|[0-9]{1,5}:[0-9]{1,2}:[0-9]{1,2}|[0-9]{1,4}-[0-9]{1,2}(:[0-9]{1,2}){0,2})$",
        description="The time limit of the job in SLURM's syntax and in quotes: `'90'` minutes, `'4:00:00'`, `'2-12'` "
        "days and hours. Absent: the partition's default.",
    )
    memory: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,8}[KMGT]?$",
        description="Memory per node, for example `64G`; a bare number is in MiB. Absent: the partition's default.",
    )
    cpus_per_task: int | None = Field(
        default=None, ge=1, le=1024, description="CPU cores per process. Absent: the partition's default, often 1."
    )
    gpus_per_node: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="GPUs per node. Absent: one for each process, or none if `hardware` names a CPU.",
    )
    requeue: bool = Field(
        default=True,
        description="Whether the job requeues itself, and resumes from its checkpoint, when it reaches its time limit, "
        "when it is preempted, and when a node fails.",
    )
    checkpoint_seconds: int = Field(
        default=120,
        ge=10,
        le=3600,
        description="Seconds before the time limit at which the workers are asked to write a checkpoint and end. SLURM "
        "may send the signal up to a minute earlier. At most half of `time_limit` is used.",
    )
