"""Errors of SLURM jobs, with SLURM's own message, the reason and a way out."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.errors import EXIT_INTERRUPTED, EXIT_RESUMABLE, DpoRecipeError, Interrupted, RunError
from dpo_recipes.launch.batch import smaller_batch_fix
from dpo_recipes.launch.slurm_script import EXIT_RUN_NOT_VISIBLE
from dpo_recipes.launch.slurm_state import JobView
from dpo_recipes.recipe.schema import Recipe

# Phrases in the output of sbatch, with a way out; the first match counts.
_REFUSALS = {
    "partition": "name a partition that `sinfo` lists: `--slurm partition=NAME`",
    "account": "name an account that may submit here: `--slurm account=NAME`",
    "qos": "name a quality of service that you may use: `--slurm qos=NAME`",
    "time limit": "lower `launch.slurm.time_limit`, or choose a partition that gives more; `sinfo` lists the limits",
    "memory": "lower `launch.slurm.memory`, or choose nodes that have more",
    "node configuration": "no node has what the job requests: compare `launch.slurm` and `num_processes` with `sinfo`; "
    "without GPUs in the cluster: `--set launch.slurm.gpus_per_node=0`",
    "gres": "this cluster has no such GPUs: `sinfo -o '%P %G'` lists those that it has; "
    "without any: `--set launch.slurm.gpus_per_node=0`",
    "job array": "the site allows no numbers as high as that in an array: `scontrol show config` prints MaxArraySize; "
    "lower `sweep.max_trials` or `seeds`",
    "unrecognized option": "correct `--slurm`; `man sbatch` lists the options by their long names",
    "contact": "SLURM's controller does not answer; `scontrol ping` shows when it does",
}


def submission_refused(words: str, script: Path) -> RunError:
    """T631: sbatch refused the job."""
    lowered = words.lower()
    known = (fix for phrase, fix in _REFUSALS.items() if phrase in lowered)
    return RunError.of(
        "T631",
        "SLURM refused the job",
        why=words or "sbatch printed no reason",
        fix=next(known, f"correct the cause; the script is {script}"),
    )


def lost(number: str) -> RunError:
    """T637: SLURM no longer knows the job, and the job has written no result."""
    return RunError.of(
        "T637",
        f"SLURM no longer knows job {number}",
        why="it forgets jobs a few minutes after their end, and this one did not record how it ended: a node or the "
        "shared file system failed, or this computer was asleep",
        fix="look at run.log, then run the recipe again: it resumes from its newest checkpoint",
    )


def task_ended(view: JobView | None, name: str, log: Path, recipe: Recipe) -> DpoRecipeError | None:
    """The error of an array's task that did not record how its run ended: I101 if it was asked to stop, T605, T632 to
    T637. None if it had nothing to do. `name` is that of the task, and `log` has its output."""
    if view is None or not view.has_ended:  # it was running when SLURM last knew it
        return lost(name)
    if view.state == "COMPLETED":
        return None
    if view.state != "FAILED":
        return ended_badly(view, log, recipe)
    code = view.exit_code
    if code in (EXIT_RESUMABLE, EXIT_INTERRUPTED):
        why = f"task {name} was asked to stop before its time limit, or for a job of a higher priority"
        return Interrupted.of("I101", "a run of the sweep was interrupted", why=why, fix="run the recipe again")
    if view.signal or code > 128:
        return RunError.of(
            "T605",
            f"the process of task {name} was killed (signal {view.signal or code - 128})",
            why=f"by a person, or by the system because memory ran out; the last output is in {log}",
            fix="run the recipe again: it resumes",
        )
    return silent_worker(view, log.parent.parent, log)


def silent_worker(view: JobView, folder: Path, log: Path) -> RunError:
    """T632: the job ended before a worker reported anything. `folder` is that of the run, and `log` has the output."""
    if view.exit_code == EXIT_RUN_NOT_VISIBLE:
        return RunError.of(
            "T632",
            f"the node {view.nodes} cannot read the run directory {folder}",
            why="the run directory must be on a file system that the nodes and this computer share",
            fix="choose a folder on the shared file system: `--set output_dir=...`",
        )
    return RunError.of(
        "T632",
        "the job ended before the worker had started",
        why=_last_words(log) or f"exit code {view.exit_code} on {view.nodes}, and nothing in {log}",
        fix="check that the setup lines work on the node, and that it has this Python with dpo-recipe",
    )


def ended_badly(view: JobView, log: Path, recipe: Recipe | None = None) -> RunError:
    """T633 to T636: SLURM ended the job."""
    where = f"on {view.nodes}" if view.nodes not in ("", "(null)") else "before it had a node"
    said = f"SLURM says {view.state}, {where}; the last output is in {log}"
    again = "run the recipe again: it resumes from its newest checkpoint"
    if view.state in ("TIMEOUT", "DEADLINE"):
        return RunError.of(
            "T633",
            "the job reached its time limit",
            why=said + ", and the workers did not write a checkpoint in the time that they had",
            fix=f"raise `launch.slurm.checkpoint_seconds` or `time_limit`, and {again}",
        )
    if view.state == "OUT_OF_MEMORY":
        return RunError.of(
            "T634",
            "the job used more memory than it had requested",
            why=said + "; this is CPU memory, not the GPU's",
            fix=f"raise `launch.slurm.memory`; on a CPU also {smaller_batch_fix(recipe)}",
        )
    if view.state in ("NODE_FAIL", "BOOT_FAIL"):
        return RunError.of("T635", "a node of the job failed", why=said, fix=again)
    return RunError.of(
        "T636",
        f"the job was {view.state.lower()}",
        why=said + "; by another person, a limit of the site, or a job of a higher priority",
        fix=f"ask the cluster's administrators if it was not you, and {again}",
    )


def _last_words(log: Path) -> str:
    try:
        return "; ".join(line.strip() for line in log.read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return ""
