"""Works on a sweep through a SLURM array: submits a task for each run, and follows them until all have ended.

The tasks need no command (`array_task`). One that follows them reads their files, and queries SLURM for what it alone
knows: why a task waits, and how one ended that has recorded nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from dpo_recipes.errors import DpoRecipeError, Interrupted, RunError
from dpo_recipes.events import EventReader
from dpo_recipes.jobs import array_task
from dpo_recipes.jobs.array_files import ArrayFiles
from dpo_recipes.jobs.trial_executor import TrialExecutor, begin_event, end_event
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.jobs.work import have_ended
from dpo_recipes.launch.batch import count_processes
from dpo_recipes.launch.choose import num_gpus_of_node
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm_array import array_script
from dpo_recipes.launch.slurm_array_job import SlurmArray
from dpo_recipes.launch.slurm_commands import find_job, submit
from dpo_recipes.launch.slurm_errors import task_ended
from dpo_recipes.launch.slurm_state import parse_array
from dpo_recipes.locks import held
from dpo_recipes.preparation import OnMessage
from dpo_recipes.run_dir import RunDirectory, write_text_atomically, written_to
from dpo_recipes.supervise import EventHandler, forwarded_signals, is_transient
from dpo_recipes.workflow import RunOptions, located

_LOOK_AT_FILES_S = 1.0
_OF_THE_TRIAL = ("T633", "T634")
"""Errors that another attempt would meet again: time and memory were too small."""


def work_in_array(runs: Sequence[TrialRun], on_event: EventHandler, options: RunOptions) -> None:
    """Let a task of an array execute each unfinished run. Returns when all runs have ended, or when they have taken
    `max_hours` and none is being executed. Each event of a run has its name as `of`.

    An array of this sweep that is in the queue or running is followed, and no other one is submitted beside it. If a
    task ends without a record for a transient reason, such as a node that failed, its run is submitted again, up to
    `options.retries` times.

    Raises `Interrupted` after a signal, `RunError` T630 and T631 (SLURM), the error of a task that says nothing about
    its trial, and I101, T605, T632 and T635 to T637 for a task that ended without a record.
    """
    retries = options.retries
    while not have_ended(runs, TrialExecutor()):
        array = _find_or_submit(runs, on_event, options)
        if array is None:  # other commands work on all runs that are left
            time.sleep(_LOOK_AT_FILES_S)
            continue
        error = _follow(array, runs, on_event)
        if error is None:
            continue
        if retries == 0 or not is_transient(error):
            raise error
        retries -= 1
        on_event({"event": "retry", "error": str(error), "left": retries})


def _find_or_submit(runs: Sequence[TrialRun], on_event: EventHandler, options: RunOptions) -> SlurmArray | None:
    """The array that executes the runs, or None if there is nothing to submit."""
    files = ArrayFiles(runs[0].sweep)

    def say(text: str) -> None:
        on_event({"event": "note", "text": text})

    with written_to(RunDirectory(files.sweep.path)):
        files.folder.mkdir(exist_ok=True)
        with held(files.lock):
            return _find(files, runs, options, say) or _submit(files, runs, options, say)


def _find(files: ArrayFiles, runs: Sequence[TrialRun], options: RunOptions, say: OnMessage) -> SlurmArray | None:
    """This sweep's array in the queue. If it has other settings, the tasks that wait are removed."""
    found = find_job(files.script, files.number)
    if found is None or all(view.is_ending for view in parse_array(found[1]).values()):
        return None
    number, tasks = found[0], files.read_tasks()
    array = SlurmArray(number, files.stop(number), say)
    files.stop(number).unlink(missing_ok=True)
    if files.script.read_text(encoding="utf-8") == _script(files, runs, options, tasks):
        files.write_job(runs[0].validated, options, tasks)
        say(f"SLURM array {number} is already in the queue")
    else:
        array.remove_waiting()
        say(f"the waiting tasks of SLURM array {number}, which had other settings, were removed from the queue")
    return array


def _submit(files: ArrayFiles, runs: Sequence[TrialRun], options: RunOptions, say: OnMessage) -> SlurmArray | None:
    tasks = [index for index, run in enumerate(runs) if run.state == "unfinished" and not run.is_claimed]
    if not tasks or TrialExecutor().is_late(runs):
        return None
    for task in tasks:
        files.forget_error(task)
    files.write_job(runs[0].validated, options, tasks)
    write_text_atomically(files.script, _script(files, runs, options, tasks))
    number = submit(files.script, options.slurm_settings)
    write_text_atomically(files.number, str(number))
    say(f"SLURM array {number} of {len(tasks)} task{'s' * (len(tasks) > 1)} from {files.script}")
    return SlurmArray(number, files.stop(number), say)


def _script(files: ArrayFiles, runs: Sequence[TrialRun], options: RunOptions, tasks: Sequence[int]) -> str:
    recipe, flags = runs[0].validated.recipe, options.flags
    assert recipe.sweep is not None, "the recipe has a sweep"
    counts = count_processes(
        recipe, num_gpus_of_node(recipe), num_processes=flags.num_processes, num_nodes=flags.num_nodes
    )
    request = LaunchRequest(recipe, RunDirectory(files.sweep.path), *counts, slurm_settings=options.slurm_settings)
    return array_script(files.sweep.path, request, tasks, recipe.sweep.parallel, array_task.__name__)


def _follow(array: SlurmArray, runs: Sequence[TrialRun], on_event: EventHandler) -> DpoRecipeError | None:
    """Pass events on until the array has ended. Returns the error of a task that ended without a record, or None."""
    files = ArrayFiles(runs[0].sweep)
    tasks = files.read_tasks()
    followed = [_Followed(runs[task]) for task in tasks if runs[task].state == "unfinished"]
    error: RunError | None = None
    with forwarded_signals(array) as asked:
        while True:
            has_ended = array.has_ended()
            for each in followed:
                each.report(on_event)
            if error is None:
                error = next((found for task in tasks if (found := files.read_error(task))), None)
                if error is not None:  # the other tasks would meet it too
                    array.interrupt()
            if has_ended or all(each.has_ended for each in followed):
                break
            time.sleep(_LOOK_AT_FILES_S)
    if error is not None:
        raise error
    if asked.count and not have_ended(runs, TrialExecutor()):
        raise Interrupted.of("I101", "the sweep was interrupted", why="by a signal", fix="run the recipe again")
    return _record_ends(array, runs, tasks, on_event)


def _record_ends(
    array: SlurmArray, runs: Sequence[TrialRun], tasks: Sequence[int], on_event: EventHandler
) -> DpoRecipeError | None:
    """Record the failure of each run whose task reached a limit. Returns the error of another task that ended without a
    record, or None."""
    files, errors = ArrayFiles(runs[0].sweep), []
    for task in tasks:
        run = runs[task]
        with run.claimed() as is_ours:
            if not is_ours or run.state != "unfinished":
                continue
            name = f"{array.number}_{task}"
            error = task_ended(array.views.get(task), name, files.log(task), run.validated.recipe)
            if error is None or array.was_removed(task):
                continue
            finding = replace(error.findings[0], why=f"run {run.name}: {error.findings[0].why}")
            error = type(error)(finding)
            if finding.code not in _OF_THE_TRIAL:
                errors.append(error)
                continue
            run.fail(error)
        if run.find_trial() is not None:
            on_event({**end_event(run), "of": run.name})
    return next((error for error in errors if not is_transient(error)), errors[0] if errors else None)


class _Followed:
    """A run that a task executes, and its events."""

    def __init__(self, run: TrialRun) -> None:
        self.has_ended = False
        self._run = run
        self._attempts = run.num_attempts()
        self._has_begun = False
        self._reader = EventReader(run.run.events)

    def report(self, on_event: EventHandler) -> None:
        """Pass new events on."""
        run = self._run
        if self.has_ended or run.find_trial() is None:
            return
        self.has_ended = run.state != "unfinished"
        if not self._has_begun and (run.num_attempts() > self._attempts or run.is_claimed):
            self._has_begun = True
            on_event({**begin_event(run), "of": run.name})
        for event in self._reader.new_events() if self._has_begun else ():
            on_event({**located(event, run.validated.composed.where), "of": run.name})
        if self.has_ended:
            on_event({**end_event(run), "of": run.name})
