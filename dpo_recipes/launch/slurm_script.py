"""Makes the script of a SLURM job from a prepared run directory. It only makes text and starts nothing.

A name or path of a recipe is quoted for the shell and is never part of an `#SBATCH` line, which SLURM would split at
blanks; these lines hold only values that the schema and `slurm_settings` restrict to harmless characters.
"""

from __future__ import annotations

import re
import shlex

from dpo_recipes import __version__
from dpo_recipes.errors import EXIT_INTERRUPTED, EXIT_RESUMABLE
from dpo_recipes.hardware.profiles import profile
from dpo_recipes.launch.ending import PARENT
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.local import LAUNCHER, cpu_allocator
from dpo_recipes.launch.slurm_settings import SlurmSettings
from dpo_recipes.recipe.schema import Recipe

EXIT_RUN_NOT_VISIBLE = 72
"""The exit code of the script if its node cannot read the run directory (EX_OSFILE of sysexits.h)."""

_STOPPED = {"resumable": EXIT_RESUMABLE, "interrupted": EXIT_INTERRUPTED}

_GPU_OPTIONS = {"gres", "gpus", "gpus-per-socket"}
# A process gets the variables that torchrun would set. srun is the launcher: unlike torchrun, it forwards signals and
# exit codes (docs/adr/0014-srun-starts-the-processes.md). srun ends all tasks when one fails; a task that has stopped
# on request has not failed, and the others may still be writing.
_TASK = """\
task() {{
    trap : INT TERM
    [ "$SLURM_NODEID" = 0 ] || unset {parent}  # that process is on the first node
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS GROUP_RANK=$SLURM_NODEID
    export LOCAL_WORLD_SIZE={per_node}
    "$@"
    code=$?
    if [ "$code" = {resumable} ] || [ "$code" = {interrupted} ]; then
        echo "$code" >"$on_request" && code=0
    fi
    exit "$code"
}}
"""
_EXPORTED = """\
export -f task
export on_request="$run/launch/on_request.$SLURM_JOB_ID"
rm -f "$on_request"
"""

_SCRIPT = """\
#!/bin/bash
# Made by dpo-recipe {version}. `sbatch {file_name}` submits it again.
{options}

run={run}
command=({command})
export WANDB_PROJECT={wandb}
[ -d "$run/launch" ] || exit {not_visible}
exec >>"$run/run.log" 2>&1 </dev/null

# On SIGINT a worker writes a checkpoint and ends. SLURM sends USR1 to this shell before the time limit. TERM is caught
# so that the shell stays until the workers have written their last checkpoint.
asked_by=nobody interrupted=no code=
trap 'asked_by=slurm interrupted=yes; scancel --signal=INT "$SLURM_JOB_ID"' USR1
trap 'interrupted=yes' TERM
{setup}
set +eu
{variables}
{task_function}
if [ -e "$run/launch/stop.$SLURM_JOB_ID" ] || [ "$asked_by" = slurm ]; then
    code={interrupted}
else
    srun --ntasks={ntasks} --ntasks-per-node={per_node} --kill-on-bad-exit=1 --export=ALL {task}"${{command[@]}}" &
    step=$!
fi
until [ -n "$code" ]; do
    interrupted=no
    wait "$step"
    ended=$?
    [ "$interrupted" = yes ] || code=$ended
done
{count}{requeue}
echo "$code" >"$run/launch/exit_code.$SLURM_JOB_ID"
exit "$code"
"""

_COUNT = """\
[ "$code" != 0 ] || [ ! -e "$on_request" ] || code=$(<"$on_request")
"""
_REQUEUE = """\
preempted() {{ scontrol --oneliner show job "$SLURM_JOB_ID" | grep -Eq ' PreemptTime=[0-9]'; }}
if [ "$code" = {resumable} ] && [ ! -e "$run/launch/stop.$SLURM_JOB_ID" ]; then
    if [ "$asked_by" = slurm ] || preempted; then
        scontrol requeue "$SLURM_JOB_ID" && exit "$code"
    fi
fi"""


def gpus_of_node(recipe: Recipe) -> int:
    """GPUs that a process of the recipe can use on a node; the submitting machine cannot count those of a node."""
    asked, hardware = recipe.launch.slurm.gpus_per_node, recipe.hardware
    kind = profile(hardware.profile).kind if hardware.profile else "cuda"
    return asked if asked is not None else 0 if "cpu" in (hardware.device, kind) else 1


def gpus_per_node(request: LaunchRequest) -> int:
    """GPUs that a job requests on each node: the recipe's number, else one for each process."""
    asked = request.recipe.launch.slurm.gpus_per_node
    return asked if asked is not None else gpus_of_node(request.recipe) * per_node(request)


def batch_script(request: LaunchRequest, slurm_settings: SlurmSettings) -> str:
    """The script of the job that executes a prepared run directory."""
    joined = are_joined(request)
    project = request.recipe.tracking.project
    return _SCRIPT.format(
        version=__version__,
        file_name="job.sbatch",
        options=option_lines(request, slurm_settings),
        run=shlex.quote(str(request.run.path)),
        command=shlex.join(LAUNCHER.command(request)),
        wandb=shlex.quote(project) if project else f'"${{WANDB_PROJECT:-{request.recipe.name}}}"',
        not_visible=EXIT_RUN_NOT_VISIBLE,
        setup=setup_lines(slurm_settings),
        variables=variable_lines(request),
        interrupted=EXIT_INTERRUPTED,
        ntasks=request.num_processes,
        per_node=per_node(request),
        task_function=task_function(request) + _EXPORTED if joined else "",
        task="bash -c 'task \"$@\"' task " if joined else "",
        count=_COUNT if joined else "",
        requeue=_REQUEUE.format(resumable=EXIT_RESUMABLE) if request.recipe.launch.slurm.requeue else "",
    )


def task_function(request: LaunchRequest) -> str:
    """The function `task` of the shell, which executes its arguments as a process of a group. If they have stopped on
    request, their exit code is in the file `$on_request`."""
    return _TASK.format(per_node=per_node(request), parent=PARENT, **_STOPPED)


def option_lines(request: LaunchRequest, slurm_settings: SlurmSettings, *others: str) -> str:
    """The lines of a script with options for sbatch."""
    return "\n".join(f"#SBATCH --{option}" for option in [*_options(request, slurm_settings), *others])


def setup_lines(slurm_settings: SlurmSettings) -> str:
    """The lines of a script that the site requires."""
    return f"\n# Lines of the site.\n{slurm_settings.setup.rstrip()}\n" if slurm_settings.setup.strip() else ""


def are_joined(request: LaunchRequest) -> bool:
    """Whether the processes form a group; DeepSpeed and FSDP need one for a single process too."""
    return request.num_processes > 1 or request.recipe.launch.strategy not in ("auto", "ddp")


def per_node(request: LaunchRequest) -> int:
    """The processes of each node."""
    return -(-request.num_processes // request.num_nodes)


def _options(request: LaunchRequest, slurm_settings: SlurmSettings) -> list[str]:
    slurm = request.recipe.launch.slurm
    options = [
        f"job-name={request.recipe.name}",
        "output=/dev/null",  # the script itself writes to run.log, whose path may contain any character
        f"nodes={request.num_nodes}",
        f"ntasks-per-node={per_node(request)}",
        "requeue" if slurm.requeue else "no-requeue",
        f"signal=B:USR1@{_warning_s(request.recipe)}",
    ]
    if slurm.time_limit is not None:
        options.append(f"time={slurm.time_limit}")
    if slurm.memory is not None:
        options.append(f"mem={slurm.memory}")
    if slurm.cpus_per_task is not None:
        options.append(f"cpus-per-task={slurm.cpus_per_task}")
    if gpus_per_node(request) and not _GPU_OPTIONS & set(slurm_settings.options):
        options.append(f"gpus-per-node={gpus_per_node(request)}")
    return [*options, *(argument.removeprefix("--") for argument in slurm_settings.arguments())]


def _warning_s(recipe: Recipe) -> int:
    slurm = recipe.launch.slurm
    limit_s = seconds_of(slurm.time_limit) if slurm.time_limit else 0
    return min(slurm.checkpoint_seconds, limit_s // 2) if limit_s else slurm.checkpoint_seconds


def seconds_of(time_limit: str) -> int:
    """A time as SLURM writes it (`M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`) in seconds; 0 is no limit."""
    days, dash, rest = time_limit.rpartition("-")
    parts = [int(part) for part in re.split(":", rest)]
    units = [3600, 60, 1] if dash or len(parts) == 3 else [60, 1]
    return int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))


def variable_lines(request: LaunchRequest) -> str:
    """The lines of a script with the environment of the workers; variables that a person has set are kept."""
    num_threads = request.recipe.launch.num_threads
    lines = ["export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=true", 'cores="$SLURM_CPUS_PER_TASK"']
    if gpus_per_node(request) == 0:
        lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in cpu_allocator().items()]
    if num_threads:
        lines.append(f"export OMP_NUM_THREADS={num_threads}")
    else:
        lines.append('[ -z "$cores" ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cores}"')
    # Since SLURM 22.05 srun does not inherit this from the job.
    lines.append('[ -z "$cores" ] || export SRUN_CPUS_PER_TASK="$cores"')
    if are_joined(request):
        one_node = request.num_nodes == 1
        host = "127.0.0.1" if one_node else '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        # The port is below the ephemeral ports of a system, and differs between the jobs on a shared node.
        lines += [f"export MASTER_ADDR={host}", "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))"]
    return "\n".join(lines)
