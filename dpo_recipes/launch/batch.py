"""How many processes run, and the micro-batch and accumulation with which they keep a recipe's effective batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dpo_recipes.errors import RecipeError
from dpo_recipes.objectives import fixed_micro_batch_reason, objective_of
from dpo_recipes.recipe.schema import Recipe


@dataclass(frozen=True)
class BatchPlan:
    """How many processes there are, and the micro-batch and accumulation of each."""

    num_processes: int
    """The total over all nodes."""
    num_nodes: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    max_tokens: int | None = None
    """The token budget of a micro-batch, or None for a fixed number of rows. With a budget, the two numbers above only
    say how many rows a process computes in a step."""

    @property
    def trainer_batch(self) -> tuple[int, int]:
        """The trainer's batch size in each process, and its accumulation. With a token budget, one batch of the trainer
        is a whole step, and micro-batches are made within it."""
        if self.max_tokens is not None:
            return self.micro_batch_size * self.gradient_accumulation_steps, 1
        return self.micro_batch_size, self.gradient_accumulation_steps

    @property
    def accumulates(self) -> bool:
        """Whether a process may compute several micro-batches in a step, so that it keeps gradients between them."""
        if self.max_tokens is not None:
            return self.rows_per_step > self.num_processes
        return self.gradient_accumulation_steps > 1

    @property
    def rows_per_step(self) -> int:
        """The effective batch: the rows of one optimizer step."""
        return self.num_processes * self.micro_batch_size * self.gradient_accumulation_steps

    @property
    def processes_per_node(self) -> int:
        """Processes of one machine."""
        return self.num_processes // self.num_nodes

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**asdict(self), "pairs_per_step": self.rows_per_step}

    def describe(self, noun: str) -> str:
        """The plan in words. `noun` is what the objective calls a row."""
        nodes = f" on {self.num_nodes} nodes" if self.num_nodes > 1 else ""
        processes = f"{self.num_processes} process{'es' if self.num_processes > 1 else ''}{nodes}"
        if self.max_tokens is not None:
            share, _ = self.trainer_batch
            return f"{self.rows_per_step} {noun}s a step: {processes} × {share} in passes of {self.max_tokens:,} tokens"
        return (
            f"{self.rows_per_step} {noun}s a step: {processes} × micro-batch {self.micro_batch_size} × "
            f"{self.gradient_accumulation_steps} accumulated"
        )


def effective_batch(recipe: Recipe) -> int:
    """The effective batch that the recipe describes; `num_processes: auto` counts as one."""
    training, meant = recipe.training, recipe.launch.num_processes
    return training.micro_batch_size * training.gradient_accumulation_steps * (1 if meant == "auto" else meant)


def divisible_parts(recipe: Recipe) -> int:
    """The number of parts of a step that processes can share equally: its rows, or its micro-batches if another
    micro-batch would change the loss."""
    total = effective_batch(recipe)
    return total if fixed_micro_batch_reason(recipe) is None else total // recipe.training.micro_batch_size


def divisors(total: int, most: int) -> list[int]:
    """The whole numbers up to `most` that divide a number of rows, the largest first."""
    return [number for number in range(most, 0, -1) if total % number == 0]


def count_processes(
    recipe: Recipe, num_gpus: int, *, num_processes: int | None = None, num_nodes: int | None = None
) -> tuple[int, int]:
    """The numbers of processes and nodes, from the command line or else the recipe.

    `auto` is one process for each GPU of each node, as far as they divide the parts of a step, and one for a node
    without GPUs. Raises `RecipeError` R341 if nodes would have different numbers of processes.
    """
    nodes = num_nodes or recipe.launch.num_nodes
    processes = num_processes or recipe.launch.num_processes
    if processes == "auto":
        most = num_gpus if num_gpus and recipe.hardware.device in ("auto", "cuda") else 1
        parts = divisible_parts(recipe)
        processes = nodes * (most if parts % nodes else divisors(parts // nodes, most)[0])
    if processes % nodes:
        raise uneven_nodes(processes, nodes)
    return processes, nodes


def plan_batch(recipe: Recipe, num_processes: int, num_nodes: int = 1) -> BatchPlan:
    """The recipe's effective batch, divided over the processes.

    The micro-batch is the recipe's, or the largest smaller one that divides the share of a process; a micro-batch that
    the loss depends on stays as it is. Raises `RecipeError` R340 if the processes do not divide the step.
    """
    if divisible_parts(recipe) % num_processes:
        raise _indivisible(recipe, num_processes)
    share = effective_batch(recipe) // num_processes
    micro = divisors(share, min(recipe.training.micro_batch_size, share))[0]
    return BatchPlan(num_processes, num_nodes, micro, share // micro, max_tokens(recipe))


def with_batch(recipe: Recipe, plan: BatchPlan) -> Recipe:
    """The recipe as one process executes it: its micro-batch and its own accumulation."""
    settings = {
        "micro_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
    }
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=settings)})


def max_tokens(recipe: Recipe) -> int | None:
    """The token budget of a micro-batch, or None if micro-batches have a fixed number of rows.

    It is also None if other rows in the micro-batch would change the loss, and if the answers of a row are yet to be
    written, so that nobody knows its tokens.
    """
    has_fixed_size = fixed_micro_batch_reason(recipe) is not None or objective_of(recipe).rows == "prompt"
    return None if has_fixed_size else recipe.training.max_tokens_per_pass


def batch_of(recipe: Recipe, num_processes: int = 1, num_nodes: int = 1) -> BatchPlan:
    """The plan in which each process uses the micro-batch and accumulation of a recipe unchanged."""
    training = recipe.training
    sizes = (training.micro_batch_size, training.gradient_accumulation_steps)
    return BatchPlan(num_processes, num_nodes, *sizes, max_tokens(recipe))


def uneven_nodes(num_processes: int, num_nodes: int) -> RecipeError:
    """The error for processes that cannot be spread evenly over nodes."""
    lower = num_processes - num_processes % num_nodes
    return RecipeError.of(
        "R341",
        f"{num_processes} processes cannot be spread evenly over {num_nodes} nodes",
        why="every node starts the same number, so that each has its devices",
        fix=f"take {lower or num_nodes} or {lower + num_nodes} processes, or another number of nodes",
    )


def smaller_batch_fix(recipe: Recipe | None) -> str:
    """How a smaller micro-batch reduces memory. The recipe may be unknown."""
    reason = fixed_micro_batch_reason(recipe) if recipe is not None else None
    if reason is None:
        return (
            "halve `training.micro_batch_size` and double `gradient_accumulation_steps`, or halve `max_tokens_per_pass`"
        )
    return (
        "write a smaller `training.micro_batch_size` and a larger `gradient_accumulation_steps` into the recipe, which "
        f"gives other results, because {reason}"
    )


def _indivisible(recipe: Recipe, num_processes: int) -> RecipeError:
    training, parts, reason = recipe.training, divisible_parts(recipe), fixed_micro_batch_reason(recipe)
    rows = f"{objective_of(recipe).row_noun}s"
    below = divisors(parts, num_processes)[0]
    above = min((count for count in divisors(parts, parts) if count > num_processes), default=None)
    counts = f"{below} or {above}" if above else f"{below}"
    meant = 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes
    unit = meant * (training.micro_batch_size if reason is None else 1)
    accumulation = next(n for n in range(training.gradient_accumulation_steps, 10**9) if unit * n % num_processes == 0)
    fix = (
        f"take {counts} processes (`--num-processes`), or `--set training.gradient_accumulation_steps={accumulation}`, "
        f"which makes it {training.micro_batch_size * meant * accumulation} {rows} a step"
    )
    if reason is None:
        return RecipeError.of(
            "R340",
            f"{num_processes} processes do not divide the {parts} {rows} of a step",
            why=f"each process computes the same number of {rows}, and a step must use as many as the recipe says",
            fix=fix,
        )
    batches = "the only micro-batch" if parts == 1 else f"the {parts} micro-batches"
    return RecipeError.of(
        "R340",
        f"{num_processes} processes do not divide {batches} of a step",
        why=f"each process computes the same number of whole micro-batches of {training.micro_batch_size} {rows}, "
        f"because {reason}",
        fix=f"{fix}; a smaller `micro_batch_size` in the recipe gives other results",
    )
