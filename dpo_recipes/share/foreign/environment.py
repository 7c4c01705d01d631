"""Variables of the environment and the number of processes, which scripts set before a command."""

from __future__ import annotations

from dpo_recipes.share.foreign.command import ENVIRONMENT
from dpo_recipes.share.foreign.draft import Draft
from dpo_recipes.share.foreign.listed import Listed, listed
from dpo_recipes.share.foreign.values import whole


def map_environment(draft: Draft) -> int:
    """`launch.num_processes` and `num_nodes` from the variables of torchrun and accelerate. Returns the number of
    processes, 1 if nothing says it."""
    env = draft.keys.sub(ENVIRONMENT)
    per_node, nodes = _count(env.get("NPROC_PER_NODE")), _count(env.get("NNODES"))
    total = _count(env.get("NUM_PROCESSES"))
    machines = nodes or _count(env.get("NUM_MACHINES")) or 1
    number = total or (per_node or 1) * machines
    names = [name for name in ("NPROC_PER_NODE", "NNODES", "NUM_PROCESSES", "NUM_MACHINES") if env.has(name)]
    if number > 1:
        draft.put("launch.num_processes", number, *[env.key(name) for name in names])
        if machines > 1:
            draft.put("launch.num_nodes", machines, *[env.key(n) for n in names if n in ("NNODES", "NUM_MACHINES")])
    else:
        env.derive([name for name in names if _count(env.get(name))], "launch.num_processes", note="one process")
    return number


def _count(value: object) -> int | None:
    try:
        number = whole(value)
    except ValueError:
        return None
    return number if 1 <= number <= 65536 else None


LISTED: tuple[Listed, ...] = (
    listed(
        "a variable of the script: options that use it have its value; set others by hand before `dpo-recipe run`",
        f"{ENVIRONMENT}.*",
        is_feature=False,
    ),
)
