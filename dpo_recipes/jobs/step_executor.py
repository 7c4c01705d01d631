"""How the runs of a chain are executed: each as the kind of its step does it."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_recipes.jobs.step_run import StepRun
from dpo_recipes.jobs.work import record_failure
from dpo_recipes.run_dir import RunDirectory, written_to
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions


class StepExecutor:
    """Executes runs of steps."""

    def is_late(self, runs: Sequence[StepRun]) -> bool:
        """A chain has no time limit."""
        return False

    def execute(self, run: StepRun, runs: Sequence[StepRun], on_event: EventHandler, options: RunOptions) -> None:
        """Execute a step, with an event before and after it."""
        step = run.step
        work = f"{step.kind.kind}: {step.kind.describe(step.checked.settings)}"
        on_event({"event": "chain_step", "name": step.name, "work": work})
        with written_to(RunDirectory(run.job.path)):
            run.forget_failure()
            run.run.result.unlink(missing_ok=True)  # it has one if what the step made was removed
        record_failure(run, lambda: step.kind.execute(run.resolve(), run.run, on_event, options))
        failure = run.failure() or {}
        figures = step.kind.figures(run.run) if run.state == "finished" else []
        on_event(
            {
                "event": "chain_step_ended",
                "name": step.name,
                "state": run.state,
                "text": failure.get("text"),
                "figures": ", ".join(figure.phrase for figure in figures),
            }
        )
