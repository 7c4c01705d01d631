"""The `launch.slurm` section: what a SLURM job asks for."""

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section


class Slurm(Section):
    """Resources of a SLURM job. Partition, account and the like belong to a site: docs/clusters.md says where they
    are given."""

    time_limit: str | None = Field(
        default=None,
        pattern=r"^([0-9]{1,7}|[0-9]{1,7}:[0-9]{1,2}|[0-9]{1,5}:[0-9]{1,2}:[0-9]{1,2}|[0-9]{1,4}-[0-9]{1,2}(:[0-9]{1,2}){0,2})$",
        description="Longest time of the job as SLURM writes it, in quotes: `'90'` minutes, `'4:00:00'`, `'2-12'` days "
        "and hours. Absent: the partition's.",
    )
    memory: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,8}[KMGT]?$",
        description="Memory of a node, for example `64G`; a bare number is MiB. Absent: the partition's default.",
    )
    cpus_per_task: int | None = Field(
        default=None, ge=1, le=1024, description="CPU cores of a process. Absent: the partition's default, often 1."
    )
    gpus_per_node: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="GPUs of a node. Absent: one for each process, none where `hardware` names a CPU.",
    )
    requeue: bool = Field(
        default=True,
        description="Whether the job requeues itself, and resumes from its checkpoint, when its time is over, when "
        "it is preempted, and when a node fails.",
    )
    checkpoint_seconds: int = Field(
        default=120,
        ge=10,
        le=3600,
        description="Seconds before the time limit at which the workers are asked to write a checkpoint and end. SLURM "
        "may ask up to a minute earlier. At most half of `time_limit` is used.",
    )
