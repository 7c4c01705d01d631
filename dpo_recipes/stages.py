"""The stages of a run in one process: data, model, training, evaluation, saving, report, and finally `result.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_recipes import hub
from dpo_recipes.errors import Finding
from dpo_recipes.events import EventLog
from dpo_recipes.formats import utc_stamp
from dpo_recipes.hardware import machine
from dpo_recipes.launch.batch import with_batch
from dpo_recipes.launch.files import LaunchPlan, read_launch, write_launch
from dpo_recipes.launch.ranks import Rank
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory, write_json, write_text_atomically
from dpo_recipes.run_result import DataInfo, Environment, ModelInfo, ProcessInfo, RunResult

if TYPE_CHECKING:
    from dpo_recipes.data.tokenize import TokenizedSplits
    from dpo_recipes.engine.callbacks.stop import StopRequest
    from dpo_recipes.engine.distributed import DistributedContext
    from dpo_recipes.engine.trackers.session import Trackers
    from dpo_recipes.evaluate.samples import Samples
    from dpo_recipes.model.build import ModelBundle
    from dpo_recipes.prepared_data import PreparedData

_SPLIT_NAMES = {"train": "training {}s", "eval": "held out", "test": "to test on"}


class RunStages:
    """The stages of one run, in order. Each passes its result to the next one and writes it to disk."""

    def __init__(
        self, recipe: Recipe, run: RunDirectory, rank: Rank, events: EventLog, *, trust_remote_code: bool,
        reward_functions: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.launch = read_launch(run, recipe)
        self.recipe = with_batch(recipe, self.launch.batch)
        self.rank = rank
        self.run = self.shared_run = run
        """The run directories: `run` for this node's files, `shared_run` for those of the whole run.

        They differ only if each node has its own.
        """
        self.events = events
        # Both the recipe's author and the user must allow it.
        self.trust_remote_code = trust_remote_code and recipe.model.trust_remote_code
        self.reward_functions = frozenset(reward_functions)
        self.started = time.time()
        self.reserve_bytes = 0
        self.distributed: DistributedContext

    def execute(self) -> None:
        """Run every stage. Raises `DpoRecipeError` for faults that the user can correct.

        All processes run all stages; the first process writes the files that belong to the run as a whole.
        """
        self.events.stage("start", "loading libraries")
        from dpo_recipes.engine.callbacks.stop import StopRequest
        from dpo_recipes.engine.distributed import join, leave
        from dpo_recipes.engine.shared_run import find_shared_run
        from dpo_recipes.engine.trackers.session import Trackers

        stop = StopRequest(self.run.checkpoints)
        stop.install()
        self.distributed = join(self.rank, self.recipe, self.launch.batch.num_processes)
        if self.launch.batch.num_nodes > 1:
            self.shared_run = find_shared_run(self.run, self.distributed, self.events)
        stop.checkpoints = self.shared_run.checkpoints
        bundle, tokenized = self._prepare()
        with Trackers(self.recipe, self.shared_run, self.events, is_main=self.rank.is_main) as trackers:
            result = self._train(bundle, tokenized, stop, trackers)
            if self.rank.is_main:
                self._report(result, trackers)
        self.distributed.wait()
        leave(self.distributed)

    def _prepare(self) -> tuple[ModelBundle, TokenizedSplits]:
        from dpo_recipes.engine.vllm_checks import check_vocabulary
        from dpo_recipes.export.rehearsal import rehearse_saving
        from dpo_recipes.model.build import build_model
        from dpo_recipes.prepared_data import prepare_data

        with self.distributed.one_first():
            warned = self._check_base()
            prepared = prepare_data(self.recipe, self.events.stage, trust_remote_code=self.trust_remote_code)
        tokenized = prepared.splits
        if hub.is_offline():
            text = f"{hub.endpoint()} does not answer: only downloaded files are used"
            self.events.note(text)
        if self.rank.is_main:
            write_json(
                self.shared_run.data_report, {"splits": {k: asdict(report) for k, report in tokenized.reports.items()}}
            )
        self.events.findings(tokenized.warnings)
        for name, report in tokenized.reports.items():
            if report.has_changes:
                self.events.note(f"{name}: {report.describe_changes()}")
        if self.rank.is_main:
            check_vocabulary(self.recipe, prepared.tokenizer, prepared.chat.added_ids)
        decided = self._check_fit(prepared) if self.rank.is_main else None
        self.recipe, self.launch, self.reserve_bytes = self.distributed.share(decided)
        noun = objective_of(self.recipe).row_noun
        counts = [f"{len(split)} {_SPLIT_NAMES[name].format(noun)}" for name, split in tokenized.datasets.items()]
        self.events.stage("model", ", ".join(counts))
        bundle = build_model(
            self.recipe, prepared.location, prepared.tokenizer, prepared.chat,
            trust_remote_code=self.trust_remote_code, is_to_be_sharded=self.launch.shards_weights,
        )  # fmt: skip
        if self.rank.is_main:
            self.events.findings([finding for finding in bundle.findings if finding not in warned])
            rehearse_saving(self.recipe, bundle, self.shared_run)
        return bundle, tokenized

    def _check_base(self) -> list[Finding]:
        """Check the base before data and weights are read. Returns warnings."""
        from dpo_recipes.engine.vllm_checks import check_vllm
        from dpo_recipes.model.preflight import check_base
        from dpo_recipes.model.sources import resolve_model

        if not self.rank.is_main:
            return []
        check_vllm(self.recipe)
        self.events.stage("check", f"{self.recipe.model.path}: module names and weights")
        location = resolve_model(self.recipe.model)
        warnings = check_base(self.recipe, location, trust_remote_code=self.trust_remote_code)
        self.events.findings(warnings)
        return warnings

    def _check_fit(self, prepared: PreparedData) -> tuple[Recipe, LaunchPlan, int]:
        """Plan the run with the lengths of its rows, and report changes and doubts.

        Returns the decisions that all processes follow: the recipe, their shared state, and the bytes that the
        optimizer will need. Raises `FitError` F701 and `RunError` T602.
        """
        from dpo_recipes.engine.checkpoints.choice import decided_before
        from dpo_recipes.fit.decision import decide
        from dpo_recipes.fit.planner.disk import check_space

        self.events.stage("plan", "memory and time")
        trust = self.trust_remote_code
        before = decided_before(self.shared_run)
        decided = decide(self.recipe, self.launch, self.rank, prepared, trust_remote_code=trust, before=before)
        launch, prediction = decided.launch, decided.plan.to_json()
        write_launch(self.run, decided.recipe, launch, decided.plan.dtype)
        write_json(self.run.plan, {**_read_json(self.run.plan), "launch": launch.to_json(), "prediction": prediction})
        self.events.findings([*decided.findings, *check_space(prediction["disk"], self.run.path)])
        self.events.note(describe_briefly(prediction))
        if self.rank.num_processes > 1:
            self.events.note(f"{launch.strategy}: {launch.reason}")
        return decided.recipe, launch, decided.reserve_bytes

    def _train(
        self, bundle: ModelBundle, tokenized: TokenizedSplits, stop: StopRequest, trackers: Trackers
    ) -> RunResult:
        from dpo_recipes.engine.train import train
        from dpo_recipes.evaluate.drift import drift_from_base
        from dpo_recipes.evaluate.metrics import evaluate_splits
        from dpo_recipes.evaluate.samples import Samples
        from dpo_recipes.objectives import objective_of

        distributed, is_main = replace(self.distributed, launch=self.launch), self.rank.is_main
        generates = objective_of(self.recipe).head == "causal_lm"
        samples = Samples.choose(tokenized, self.recipe.evaluation, generates=generates)
        trained = train(
            self.recipe, bundle, self.shared_run, tokenized, samples, self.events, stop,
            reserve_bytes=self.reserve_bytes, distributed=distributed, trackers=trackers,
            reward_functions=self.reward_functions,
        )  # fmt: skip
        self.events.stage("evaluate", "the tuned model")
        metrics = evaluate_splits(trained.trainer, trained.trainer.context.objective.metrics)
        if is_main or distributed.shards_weights:
            samples.ask("tuned", trained.trainer.model, bundle)
        drift = None
        if trained.watch.has("drift") and is_main and not distributed.shards_weights:
            drift = drift_from_base(trained.trainer.model, self.recipe, bundle, samples, self.events)
        if (words := samples.answer_words()) is not None:
            trained.watch.see_answers(trained.trainer.state.global_step, words, drift)
        result = self._result(bundle, tokenized, samples).with_changes(
            **dict(trained.figures),
            guards=trained.watch.report(),
            drift=drift,
            metrics={"train_loss": trained.train_loss, **metrics},
            base_metrics={"train_loss": None, **trained.base_metrics},
        )
        return self._save(trained.trainer, bundle, distributed, result)

    def _save(self, trainer: Any, bundle: ModelBundle, distributed: DistributedContext, result: RunResult) -> RunResult:
        """Save the model in the first process and compare it with the trained one.

        Returns the result with both. Raises `RunError` T602 and T609.
        """
        from dpo_recipes.engine.distributed import whole_weights
        from dpo_recipes.engine.last_step import last_step_kept
        from dpo_recipes.export.check import SavedModelCheck
        from dpo_recipes.export.save import save_model, saved_kind

        self.events.stage("save", "model, card and report")
        is_main, saved = self.rank.is_main, None
        check = SavedModelCheck(trainer, self.recipe, bundle, distributed.strategy) if is_main else None
        merges = saved_kind(self.recipe, bundle) == "merged"
        with last_step_kept(trainer, distributed, is_changed=merges), whole_weights(trainer, distributed) as state:
            if is_main:
                saved = save_model(trainer.model, bundle, self.recipe, self.shared_run.path, result, state)
        if saved is None or check is None:
            return result
        compared, findings = check.compare(saved)
        self.events.findings([*saved.findings, *findings])
        return result.with_changes(
            model_dir=str(saved.folder), saved=saved.kind, saved_dtype=saved.dtype, saved_model=compared
        )

    def _result(self, bundle: ModelBundle, tokenized: TokenizedSplits, samples: Samples) -> RunResult:
        """What is known before the model is saved, without the results of the training."""
        from dpo_recipes.engine.callbacks.answers import read_answers

        peaks = self.distributed.gather(machine.peak_memory_bytes())
        return RunResult(
            status="finished",
            recipe=self.recipe.name,
            summary=self.recipe.summary,
            num_eval_rows=len(tokenized.datasets.get("eval", ())),
            num_test_rows=len(tokenized.datasets.get("test", ())),
            subsets={
                name: report.subsets for name, report in tokenized.reports.items() if name != "train" and report.subsets
            },
            data=DataInfo(source=tokenized.key, chat_template=bundle.chat.template.name),
            peak_memory_bytes=max(peaks),
            processes=ProcessInfo(**self.launch.to_json(), peak_memory_bytes=peaks),
            samples=samples.side_by_side(),
            answers_by_step=read_answers(self.shared_run.answers),
            answer_words=samples.answer_words(),
            model=ModelInfo(**bundle.model_info),
            environment=Environment(**machine.describe_machine(), packages=machine.package_versions()),
            started_at=utc_stamp(self.started),
        )

    def _report(self, result: RunResult, trackers: Trackers) -> None:
        from dpo_recipes.finished_run import FinishedRun
        from dpo_recipes.report.html import render_run

        finished = time.time()
        result = result.with_changes(finished_at=utc_stamp(finished), wall_s=round(finished - self.started, 1))
        page = render_run(FinishedRun(self.shared_run, self.recipe, result))
        write_text_atomically(self.shared_run.report, page)
        result.write(self.shared_run.result)
        if trackers.names_in_use:
            self.events.stage("track", f"the report to {', '.join(trackers.names_in_use)}")
        trackers.attach_report()
        trackers.finish("finished")
        self.events.emit("done", result=str(self.shared_run.result))


def describe_briefly(prediction: dict[str, Any]) -> str:
    """The peak memory and time of a plan in one line."""
    peak, free = prediction["peak_bytes"] / 2**30, prediction["device_bytes"] / 2**30
    return f"expected: peak {peak:.2f} of {free:.2f} GiB, about {max(1, round(prediction['time_s'] / 60))} min"


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
