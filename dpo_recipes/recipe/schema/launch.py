"""The `launch` section: how many processes, where, and what they share."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from dpo_recipes.recipe.schema.section import Section
from dpo_recipes.recipe.schema.slurm import Slurm

Strategy = Literal["ddp", "fsdp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"]


class Launch(Section):
    """How worker processes start. A recipe names no machine: hosts and queues come from flags or the environment."""

    backend: Literal["auto", "local", "torchrun", "accelerate", "slurm"] = Field(
        default="auto",
        description="`local` is one process on this machine; `torchrun` several, on one machine or more; `accelerate` "
        "the same through `accelerate launch`, for GPUs; `slurm` a job in the queue of a cluster. `auto` takes `local` "
        "for one process and `torchrun` for more.",
    )
    num_processes: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = Field(
        default="auto",
        description="Processes in all, over all nodes; one trains on one device. `auto`: one for each GPU, else one. "
        "A recipe with a number means that many in its effective batch: micro_batch_size × "
        "gradient_accumulation_steps × num_processes; with `auto` it means one.",
    )
    num_nodes: int = Field(default=1, ge=1, le=4096, description="Machines; each runs the same share of the processes.")
    strategy: Literal["auto"] | Strategy = Field(
        default="auto",
        description="What several processes share: `ddp` nothing but gradients, `deepspeed-zero1` to `-zero3` also the "
        "optimizer's state, gradients, weights; `fsdp` all of them. `auto`: `ddp` where that fits each device, else "
        "`fsdp` or `deepspeed-zero3`, whichever the device and the base allow.",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none",
        description="What is kept in the computer's memory: nothing, the optimizer's state, or also weights (with "
        "`fsdp` and `deepspeed-zero3`). FSDP has nothing between none and all.",
    )
    deepspeed: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="More settings of DeepSpeed's configuration, merged into the one that is generated; none that a "
        "recipe says elsewhere.",
    )
    fsdp: dict[str, JsonValue] = Field(
        default_factory=dict, description="More settings of transformers' `fsdp_config`, merged into the generated one."
    )
    accelerate: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Settings of transformers' `accelerator_config`: `non_blocking`, `gradient_accumulation_kwargs`.",
    )
    timeout_minutes: float = Field(
        default=30.0, gt=0.0, description="How long a process waits for the others before the run is given up."
    )
    watchdog_minutes: float | None = Field(
        default=5.0,
        gt=0.0,
        description="A run without a step for so long, and for 20 times as long as a step takes, hangs: the stacks of "
        "its processes are written down and it is ended. null: never.",
    )
    num_threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of a process for matrix products. Absent: the cores that it may use, divided "
        "by the machine's processes.",
    )
    slurm: Slurm = Field(default_factory=Slurm, description="What a SLURM job asks for.")
