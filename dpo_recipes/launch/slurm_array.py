"""The script of a SLURM array whose tasks each execute one run of a sweep. It only makes text and starts nothing.

A task starts one process on its first node, which executes the run as a command would: it follows the workers, which
srun starts (`launch/srun.py`), and records how the run ended. So the array needs no command elsewhere.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dpo_recipes import __version__
from dpo_recipes.errors import EXIT_INTERRUPTED, EXIT_RESUMABLE
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm_script import EXIT_RUN_NOT_VISIBLE, option_lines, setup_lines, variable_lines
from dpo_recipes.launch.srun import IN_TASK

MAX_KILLS = 3
"""How often a task requeues itself because its process was killed."""

# A task is named by the number of the array and its own: the number of a job may be that of the whole array.
_SCRIPT = """\
#!/bin/bash
# Made by dpo-recipe {version}. `sbatch job.sbatch` submits it again; runs that have ended are left out.
{options}

run={run}
task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
[ -d "$run/launch" ] || exit {not_visible}
exec >>"$run/launch/task.$SLURM_ARRAY_TASK_ID.log" 2>&1 </dev/null

# On SIGINT the process asks its workers for a checkpoint, and ends. SLURM sends USR1 to this shell before the time
# limit. TERM is caught so that the shell stays until the workers have written their last checkpoint.
asked_by=nobody interrupted=no code= process=
warned() {{
    echo "SLURM asks for a checkpoint"
    interrupted=yes
    [ "$asked_by" = slurm ] || [ -z "$process" ] || kill -INT "$process"  # a second one would end it at once
    asked_by=slurm
}}
trap warned USR1
trap 'interrupted=yes' TERM
{setup}
set +eu
{variables}
export {in_task}="$task"
if [ -e "$run/launch/stop.$SLURM_ARRAY_JOB_ID" ] || [ "$asked_by" = slurm ]; then
    code={interrupted}
else
    {python} -m {module} "$run" "$SLURM_ARRAY_TASK_ID" &
    process=$!
fi
until [ -n "$code" ]; do
    interrupted=no
    wait "$process"
    ended=$?
    [ "$interrupted" = yes ] || code=$ended
done
{requeue}exit "$code"
"""

_REQUEUE = """\
preempted() {{ scontrol --oneliner show job "$task" | grep -Eq ' PreemptTime=[0-9]'; }}
killed() {{ [ "$code" -gt 128 ] && [ "$code" != {interrupted} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_kills} ]; }}
if [ ! -e "$run/launch/stop.$SLURM_ARRAY_JOB_ID" ]; then
    if killed || {{ [ "$code" = {resumable} ] && {{ [ "$asked_by" = slurm ] || preempted; }}; }}; then
        scontrol requeue "$task" && exit "$code"
    fi
fi
"""


def array_script(sweep: Path, request: LaunchRequest, tasks: Sequence[int], max_parallel: int, module: str) -> str:
    """The script of an array with these tasks, of which `max_parallel` run at a time. Each executes `python -m MODULE
    SWEEP TASK`. The request has the resources of each task, and the recipe of the sweep."""
    return _SCRIPT.format(
        version=__version__,
        options=option_lines(request, request.slurm_settings, f"array={_ranges(tasks)}%{max_parallel}"),
        run=shlex.quote(str(sweep)),
        not_visible=EXIT_RUN_NOT_VISIBLE,
        setup=setup_lines(request.slurm_settings),
        variables=variable_lines(request),
        in_task=IN_TASK,
        interrupted=EXIT_INTERRUPTED,
        python=shlex.quote(sys.executable),
        module=module,
        requeue=_REQUEUE.format(interrupted=EXIT_INTERRUPTED, resumable=EXIT_RESUMABLE, max_kills=MAX_KILLS)
        if request.recipe.launch.slurm.requeue
        else "",
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as sbatch reads them, such as `0-2,5`: a list of all may be too long for it."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
