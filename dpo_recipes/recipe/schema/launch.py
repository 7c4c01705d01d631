"""The `launch` section: the number of worker processes, how they are started, and what they share."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from dpo_recipes.recipe.schema.slurm import Slurm
from dpo_recipes.section import Section

Strategy = Literal["ddp", "fsdp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"]


class Launch(Section):
    """How worker processes are started. A recipe names no machine: hosts and queues come from flags or the
    environment."""

    backend: Literal["auto", "local", "torchrun", "accelerate", "slurm"] = Field(
        default="auto",
        description="`local` starts one process on this machine; `torchrun` several processes on one or more machines; "
        "`accelerate` does the same through `accelerate launch`, on GPUs; `slurm` submits a job to the queue of a "
        "cluster. `auto` is `local` for one process and `torchrun` for more.",
    )
    num_processes: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = Field(
        default="auto",
        description="The number of processes on all nodes together; each trains on one device. `auto`: one for each "
        "GPU, or one process without a GPU. The effective batch of a recipe is micro_batch_size × "
        "gradient_accumulation_steps × num_processes, with one process for `auto`.",
    )
    num_nodes: int = Field(
        default=1, ge=1, le=4096, description="The number of machines; each runs the same number of processes."
    )
    strategy: Literal["auto"] | Strategy = Field(
        default="auto",
        description="What is sharded across processes: with `ddp` nothing, `deepspeed-zero1` the optimizer state, "
        "`deepspeed-zero2` also the gradients, `deepspeed-zero3` and `fsdp` also the weights. `auto`: `ddp` if the job "
        "then fits each device, otherwise `fsdp` or `deepspeed-zero3`, whichever the device and the base allow.",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none",
        description="What is kept in CPU memory instead of on the device: nothing, the optimizer state, or also the "
        "weights (with `fsdp` and `deepspeed-zero3`). FSDP supports `none` and `all` only.",
    )
    deepspeed: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further settings of DeepSpeed's configuration, merged into the generated one. A setting that has "
        "a field of its own in a recipe is refused here.",
    )
    fsdp: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further settings of transformers' `fsdp_config`, merged into the generated one.",
    )
    accelerate: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Settings of transformers' `accelerator_config`: `non_blocking`, `gradient_accumulation_kwargs`.",
    )
    timeout_minutes: float = Field(
        default=30.0, gt=0.0, description="Minutes that a process waits for the others before the run fails."
    )
    watchdog_minutes: float | None = Field(
        default=5.0,
        gt=0.0,
        description="A run that makes no step for this number of minutes, and for 20 times as long as a step takes, is "
        "considered hung: the stacks of its processes are written to the logs, and the run is ended. null: never.",
    )
    num_threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="The number of CPU threads of a process for matrix products. Absent: the number of cores that it "
        "may use, divided by the number of processes on the machine.",
    )
    slurm: Slurm = Field(default_factory=Slurm, description="Resources of a SLURM job.")
