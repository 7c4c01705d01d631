"""Where several nodes keep what belongs to the run as a whole, when each of them has been given a run directory."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.engine.checkpoints.choice import not_seen
from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.engine.processes import Processes
from dpo_recipes.events import EventLog
from dpo_recipes.run_dir import RunDirectory, write_json


def find_home(run: RunDirectory, processes: Processes, events: EventLog) -> RunDirectory:
    """The one run directory for checkpoints, metrics, model and result: that which has checkpoints, else the first
    process's. Of the nodes that run the same command on a common file system one finds the run to go on with, whichever
    it is and whatever rank it is given.

    Nodes without a common file system keep their own, and are told that nothing can be gone on with. Raises `RunError`
    T618 where some do not see the checkpoints of another.
    """
    told = processes.gather((str(run.path), any(newest_first(run.checkpoints))))
    begun = max((path for path, has_checkpoints in told if has_checkpoints), default=None)
    home = RunDirectory(Path(begun or told[0][0]))
    if not all(processes.gather(home.path.is_dir())):
        if begun:
            raise not_seen(home.path)
        events.note("the nodes do not share `output_dir`: once it is stopped, this run cannot be gone on with")
        return run
    if home == run:
        run.part_of.unlink(missing_ok=True)  # of an attempt that ended before the first checkpoint
    elif processes.place.local_rank == 0:
        write_json(run.part_of, {"run": str(home.path)})
    return home
