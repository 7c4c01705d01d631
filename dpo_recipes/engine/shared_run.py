"""Chooses one run directory for the whole run if each of several nodes has been given its own."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.engine.checkpoints.choice import not_seen
from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.events import EventLog
from dpo_recipes.run_dir import RunDirectory, write_json


def find_shared_run(run: RunDirectory, distributed: DistributedContext, events: EventLog) -> RunDirectory:
    """The run directory for checkpoints, metrics, model and result: the one that has checkpoints, else that of the
    first process. If nodes run the same command on a shared file system, one of them finds the run to resume, whatever
    its rank is.

    Nodes without a shared file system keep their own directories, and the run reports that it cannot be resumed. Raises
    `RunError` T618 if some nodes cannot read the checkpoints of another.
    """
    gathered = distributed.gather((str(run.path), any(newest_first(run.checkpoints))))
    begun = max((path for path, has_checkpoints in gathered if has_checkpoints), default=None)
    shared_run = RunDirectory(Path(begun or gathered[0][0]))
    if not all(distributed.gather(shared_run.path.is_dir())):
        if begun:
            raise not_seen(shared_run.path)
        events.note("the nodes do not share `output_dir`: if it is stopped, this run cannot be resumed")
        return run
    if shared_run == run:
        run.part_of.unlink(missing_ok=True)  # from an attempt that ended before the first checkpoint
    elif distributed.local_rank == 0:
        write_json(run.part_of, {"run": str(shared_run.path)})
    return shared_run
