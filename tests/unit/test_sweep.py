"""A sweep: its trials and their recipes, which one is the best, and what remains of those that fail."""

from __future__ import annotations

import json
import multiprocessing
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeps import RECIPE, FakeRuns

from dpo_recipes.cli.sweep_text import describe_sweep
from dpo_recipes.errors import Finding, Interrupted, RecipeError, RunError
from dpo_recipes.jobs.ranking import choose_best, mean_and_interval
from dpo_recipes.jobs.sweep_result import RunOutcome, SweepResult, TrialOutcome
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.objectives.pair_metrics import ACCURACY
from dpo_recipes.recipe import validate as validation
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.trials import Trial, compose_trial, expand
from dpo_recipes.recipe.validate import validate, validate_composed
from dpo_recipes.supervise import WorkerBug
from dpo_recipes.workflow import RunOptions

GRID = """\
sweep:
  metric: loss
  grid:
    training.learning_rate: [3e-5, 1e-5]
    objective.beta: [0.1, 0.2]
objective: {kind: dpo}
"""
Write = Callable[[str, str], Path]


def loss(recipe: Recipe) -> dict[str, float]:
    """The lowest loss is that of 1e-5 and 0.2."""
    return {"eval_loss": recipe.training.learning_rate * 1e4 - recipe.objective.beta}  # type: ignore[attr-defined]


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuns:
    return FakeRuns(tmp_path, loss)


def recipes_of(path: Path) -> list[Recipe]:
    """The recipes of all trials."""
    validated = validate(path)
    assert validated.recipe.sweep is not None
    composed = validated.composed
    return [
        validate_composed(compose_trial(composed, validated.recipe, trial)).recipe for trial in expand(validated.recipe)
    ]


def test_a_grid_is_all_combinations_and_zipped_settings_stay_together(write: Write) -> None:
    sweep = """\
sweep:
  grid:
    training.learning_rate: [1e-6, 1e-5]
  zip:
    training.micro_batch_size: [1, 4]
    training.weight_decay: [0.0, 0.1]
"""
    found = [
        (recipe.training.learning_rate, recipe.training.micro_batch_size, recipe.training.weight_decay)
        for recipe in recipes_of(write("job.yaml", RECIPE + sweep))
    ]
    assert found == [(1e-6, 1, 0.0), (1e-6, 4, 0.1), (1e-5, 1, 0.0), (1e-5, 4, 0.1)]


RANDOM = """\
training: {seed: 5}
sweep:
  max_trials: 2
  random:
    training.learning_rate: {low: 1e-6, high: 1e-4, log: true}
    training.weight_decay: {low: 0.0, high: 0.5}
    training.micro_batch_size: {low: 1, high: 4}
    training.gradient_accumulation_steps: {low: 4, high: 30, step: 8}
    model.adapter.r: {low: 1, high: 64, log: true}
    training.lr_scheduler: [linear, cosine]
"""


def random_trials(path: Path, count: int) -> list[Trial]:
    """The first trials of a sweep; validation of that many would take seconds."""
    recipe = validate(path).recipe
    assert recipe.sweep is not None
    return expand(recipe.model_copy(update={"sweep": recipe.sweep.model_copy(update={"max_trials": count})}))


def test_random_values_are_in_their_ranges_and_cover_them(write: Write) -> None:
    trials = random_trials(write("job.yaml", RECIPE + RANDOM), 200)
    columns = {name: [trial.values[name] for trial in trials] for name in trials[0].values}
    rates = sorted(columns["training.learning_rate"])
    assert 1e-6 <= rates[0] < 1.2e-6
    assert 8e-5 < rates[-1] <= 1e-4
    assert 7e-6 < statistics.median(rates) < 1.4e-5  # the middle of the logarithms is 1e-5
    assert 0.2 < statistics.fmean(columns["training.weight_decay"]) < 0.3
    assert set(columns["training.micro_batch_size"]) == {1, 2, 3, 4}
    assert set(columns["training.gradient_accumulation_steps"]) == {4, 12, 20, 28}
    ranks = columns["model.adapter.r"]
    assert all(isinstance(rank, int) for rank in ranks)
    assert (min(ranks), statistics.median(ranks) < 16) == (1, True)
    assert 70 < columns["training.lr_scheduler"].count("linear") < 130
    assert str(rates[0]) == f"{rates[0]:.4g}"  # short enough to read


def test_a_random_trial_depends_on_seed_number_and_name_alone(write: Write) -> None:
    """The value is 1e-6 × 100^u with the random number u = random.Random("5 1 training.learning_rate").random()."""
    trials = random_trials(write("job.yaml", RECIPE + RANDOM), 20)
    fewer = RANDOM.replace("    training.weight_decay: {low: 0.0, high: 0.5}\n", "")
    some = expand(validate(write("fewer.yaml", RECIPE + fewer)).recipe)
    for one, other in zip(some, trials, strict=False):
        assert one.values == {name: other.values[name] for name in one.values}
    assert trials[0].values["training.learning_rate"] == 3.457e-5
    other_seed = expand(validate(write("seed.yaml", RECIPE + RANDOM.replace("seed: 5", "seed: 6"))).recipe)
    assert other_seed[0].values != trials[0].values


def test_the_recipe_of_a_trial_is_that_of_set_with_a_name_and_a_project(write: Write) -> None:
    path = write("job.yaml", RECIPE + GRID)
    plain = write("plain.yaml", RECIPE + "objective: {kind: dpo}\n")
    trial = recipes_of(path)[1]
    overrides = [
        "training.learning_rate=3e-5",
        "objective.beta=0.2",
        "name=job-002",
        "tracking.project=job",
        "tracking.group=job",
    ]
    assert trial == validate(plain, overrides).recipe
    assert trial.sweep is None


def test_a_value_may_be_a_section_a_list_or_an_item_of_a_list(write: Write) -> None:
    """A relative path in a value is relative to the recipe, as elsewhere in it."""
    rows = write("rows.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    sweep = """\
sweep:
  zip:
    objective: [{kind: dpo, beta: 0.3}, {kind: ipo_like, beta: 0.1}]
    data.train[0].path: [rows.jsonl, owner/pairs]
    model.adapter.target_modules: [all-linear, [q_proj, v_proj]]
"""
    recipes = recipes_of(write("job.yaml", RECIPE + sweep.replace("ipo_like", "orpo")))
    assert [recipe.objective.kind for recipe in recipes] == ["dpo", "orpo"]
    assert [recipe.data.train[0].path for recipe in recipes] == [str(rows), "owner/pairs"]
    assert [recipe.model.adapter and recipe.model.adapter.target_modules for recipe in recipes] == [
        "all-linear",
        ["q_proj", "v_proj"],
    ]


def test_an_overlong_name_is_cut_for_its_trials(write: Write) -> None:
    path = write("job.yaml", (RECIPE + GRID).replace("name: job", f"name: {'a' * 100}"))
    assert recipes_of(path)[0].name == "a" * 96 + "-001"


def test_a_finding_of_a_trial_that_points_at_no_value_names_the_trial(write: Write) -> None:
    """The learning rate schedule stands in the recipe, and only one optimizer does not go with it."""
    sweep = "sweep: {grid: {training.optimizer: [adamw_torch, schedule_free_adamw]}}\n"
    with pytest.raises(RecipeError) as caught:
        validate(write("job.yaml", RECIPE + "training: {lr_scheduler: linear}\n" + sweep))
    finding = next(finding for finding in caught.value.findings if finding.severity == "error")
    assert finding.code == "R335"
    assert finding.why is not None
    assert finding.why.endswith('; in trial 2: training.optimizer "schedule_free_adamw"')
    assert finding.where is not None
    assert finding.where.text is not None
    assert finding.where.text[finding.where.column - 1 :].startswith("schedule_free_adamw]")


KEEP_BEST = "objective: {kind: dpo}\ncheckpoints: {keep_best: true}\n"
MOVING = "objective: {kind: dpo, sync_ref_model: true}\n"


@pytest.mark.parametrize(
    ("sweep", "text", "line", "at"),
    [
        ("grid: {objective.sync_ref_model: [false, true]}", KEEP_BEST, "sweep", "true]"),
        ("grid: {checkpoints.keep_best: [false, true]}", MOVING, "sweep", "true]"),
        (
            "grid: {training.learning_rate: [1e-5, 3e-5], objective.sync_ref_model: [true, false]}",
            KEEP_BEST,
            "sweep",
            "true, false]",
        ),
        (
            "tpe: {training.learning_rate: [1e-5, 3e-5], objective.sync_ref_model: [false, true]}",
            KEEP_BEST,
            "sweep",
            "true]",
        ),
        # Of two settings that change together, either can be the cause.
        (
            "zip: {training.learning_rate: [1e-5, 3e-5], objective.sync_ref_model: [false, true]}",
            KEEP_BEST,
            "checkpoints",
            "true}",
        ),
        (
            "grid: {objective.sync_ref_model: [false, true], checkpoints.keep_best: [false, true]}",
            "objective: {kind: dpo}\n",
            "sweep",
            "true]}",
        ),
    ],
)
def test_a_moving_reference_and_keep_best_that_meet_in_a_trial(
    write: Write, monkeypatch: pytest.MonkeyPatch, sweep: str, text: str, line: str, at: str
) -> None:
    monkeypatch.setattr("dpo_recipes.recipe.sweep_checks.is_installed", lambda package: True)
    text = f"{RECIPE}{text}training: {{eval_steps: 5}}\nsweep: {{metric: loss, max_trials: 9, {sweep}}}\n"
    with pytest.raises(RecipeError) as caught:
        validate(write("job.yaml", text))
    (finding,) = [finding for finding in caught.value.findings if finding.severity == "error"]
    assert (finding.code, finding.what) == ("R358", "`keep_best` cannot be combined with `sync_ref_model`")
    assert finding.where is not None
    pointed = text.splitlines()[finding.where.line - 1]
    assert pointed.startswith(line)
    assert pointed[finding.where.column - 1 :].startswith(at)


@pytest.mark.parametrize(
    ("sweep", "objective", "at"),
    [
        ("metric: loss, grid: {training.learning_rate: [1e-5, 3e-5]}", "{kind: dpo, sync_ref_model: true}", "true}"),
        ("metric: loss, grid: {objective.sync_ref_model: [false, true]}", "{kind: dpo}", "true]"),
        ("metric: rewards/accuracies, seeds: 2", "{kind: dpo, sync_ref_model: true}", "true}"),
        ("metric: logps/chosen, direction: maximize, seeds: 2", "{kind: dpo, sync_ref_model: true}", None),
        ("metric: loss, seeds: 2", "{kind: dpo}", None),
    ],
)
def test_trials_whose_references_move_cannot_be_compared(
    write: Write, sweep: str, objective: str, at: str | None
) -> None:
    text = f"{RECIPE}objective: {objective}\nsweep: {{{sweep}}}\n"
    warnings = validate(write("job.yaml", text)).warnings
    assert [warning.code for warning in warnings] == (["R396"] if at else [])
    for warning in warnings:
        assert "moving reference" in warning.what
        assert warning.where is not None
        assert warning.where.text is not None
        assert warning.where.text[warning.where.column - 1 :].startswith(at or "")


def test_a_loss_that_the_sweep_changes_is_a_warning_unless_it_is_asked_for(write: Write) -> None:
    text = RECIPE + GRID
    assert validate(write("asked.yaml", text)).warnings == ()
    (warning,) = validate(write("job.yaml", text.replace("  metric: loss\n", ""))).warnings
    assert (warning.code, warning.where and warning.where.line) == ("R396", 10)


def test_the_best_trial_wins_and_runs_alone_as_it_did(fake: FakeRuns) -> None:
    finished = fake.run(GRID)
    assert fake.executed == ["001", "002", "003", "004"]
    result = SweepResult.read(finished.directory.result)
    assert result == finished.result
    assert [trial.value for trial in result.trials] == pytest.approx([0.2, 0.1, 0.0, -0.1])
    assert result.trials[3].values == {"training.learning_rate": 1e-5, "objective.beta": 0.2}
    assert result.best is not None
    assert (result.best.trial, result.best.run) == (4, "trials/004")
    assert result.best.lead == pytest.approx(0.1)
    assert (finished.directory.best / "model").resolve() == finished.directory.runs / "004" / "model"
    alone = validate(finished.directory.best / "recipe.yaml").recipe
    trial = validate(finished.directory.runs / "004" / "resolved.yaml").recipe
    assert alone.name == "job-best"
    assert alone == trial.model_copy(update={"name": "job-best", "tracking": alone.tracking})
    assert (alone.tracking.project, alone.tracking.group) == (None, None)
    assert (finished.directory.given_recipe).read_text() == RECIPE + GRID


def test_the_best_of_a_metric_with_a_direction_of_its_own(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, lambda recipe: {"eval_rewards/accuracies": recipe.training.learning_rate * 1e4})
    finished = fake.run(GRID.replace("metric: loss", "metric: rewards/accuracies"))
    assert finished.result.direction == "maximize"
    assert finished.result.best is not None
    assert finished.result.best.trial == 1  # of two that are equal, the first one
    other = fake.run(GRID.replace("metric: loss", "metric: rewards/accuracies\n  direction: minimize"))
    assert other.result.best is not None
    assert other.result.best.trial == 3


def test_the_table(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-002":
            raise RunError.of("T603", "the run is out of memory")
        return loss(recipe)

    fake.metrics = metrics
    lines = describe_sweep(fake.run(GRID))
    assert lines[1:6] == [
        "trial  learning_rate  beta  loss",
        "1      3e-05          0.1   0.200",
        "2      3e-05          0.2   –       out of memory (T603)",
        "3      1e-05          0.1   0.000",
        "4      1e-05          0.2   −0.100  best",
    ]
    assert lines[7] == "best      trial 4, better than the second one by 0.100"


def test_a_trial_that_fails_is_kept_with_its_reason_and_the_next_one_runs(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-001":
            raise RunError.of("T604", "the loss is not a number", why="step 3")
        if recipe.name == "job-002":
            raise WorkerBug("KeyError")
        return loss(recipe) if recipe.name == "job-003" else {"eval_loss": float("nan")}

    fake.metrics = metrics
    result = fake.run(GRID).result
    runs = [trial.runs[0] for trial in result.trials]
    assert [(run.state, run.code, run.reason) for run in runs] == [
        ("failed", "T604", "the loss is not a number"),
        ("failed", None, "this is a bug in dpo-recipe: KeyError"),
        ("finished", None, None),
        ("failed", None, "it has no finite value of `loss`"),
    ]
    assert result.best is not None
    assert (result.best.trial, result.best.lead) == (3, None)
    ended = [event["state"] for event in fake.events if event["event"] == "trial_ended"]
    assert ended == ["failed", "failed", "finished", "finished"]


def test_if_all_trials_fail_the_error_has_their_reasons_and_the_next_command_starts_anew(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-001":
            raise RunError.of("T604", "the loss is not a number")
        raise RunError.of("T603", "the run is out of memory")

    fake.metrics = metrics
    with pytest.raises(RunError) as caught:
        fake.run(GRID)
    assert caught.value.exit_code == 6
    (finding,) = caught.value.findings
    assert (finding.code, finding.what) == ("T650", "none of the 4 trials has a result")
    assert finding.why == ("trial 1: the loss is not a number (T604); trials 2, 3, 4: the run is out of memory (T603)")
    assert SweepResult.read(fake.folders[0] / "result.json").status == "failed"
    fake.metrics = loss
    fake.run(GRID)
    assert len(fake.folders) == 2


def test_an_interrupted_sweep_resumes_at_the_trial_that_was_interrupted(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-003":
            raise Interrupted.of("I101", "the run was interrupted")
        return loss(recipe)

    fake.metrics = metrics
    with pytest.raises(Interrupted):
        fake.run(GRID)
    assert not (fake.folders[0] / "result.json").exists()
    fake.metrics = loss
    finished = fake.run(GRID)
    assert fake.executed == ["001", "002", "003", "003", "004"]
    assert [trial.runs[0].attempts for trial in finished.result.trials] == [1, 1, 2, 1]
    assert fake.events[-1]["name"] == "004"
    assert [event["resumed"] for event in fake.events if event["event"] == "sweep"] == [False, True]
    fake.run(GRID)  # the sweep has finished, so this is another one
    assert len(fake.folders) == 2
    assert len(fake.executed) == 9


def test_a_failure_that_need_not_happen_again_is_tried_again_by_the_next_command_only(fake: FakeRuns) -> None:
    """A killed worker (T605) is one, a diverged loss is not."""

    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-001":
            raise RunError.of("T605", "the worker was killed")
        if recipe.name == "job-002":
            raise RunError.of("T604", "the loss is not a number")
        raise Interrupted.of("I101", "the run was interrupted")

    fake.metrics = metrics
    with pytest.raises(Interrupted):
        fake.run(GRID)
    assert fake.executed == ["001", "002", "003"]
    fake.metrics = loss
    fake.run(GRID)
    assert fake.executed[3:] == ["001", "003", "004"]


def test_a_full_disk_ends_the_command_and_is_no_failure_of_the_trial(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        raise RunError.of("T602", "no space left")

    fake.metrics = metrics
    with pytest.raises(RunError, match="T602"):
        fake.run(GRID)
    fake.metrics = loss
    assert fake.run(GRID).result.status == "finished"
    assert len(fake.folders) == 1


def test_another_grid_is_another_sweep_and_other_hours_are_not(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        raise Interrupted.of("I101", "the run was interrupted")

    fake.metrics = metrics
    for change in ("sweep.max_hours=5", "sweep.seeds=2", "training.weight_decay=0.1"):
        with pytest.raises(Interrupted):
            fake.run(GRID, change)
    assert len(fake.folders) == 3
    with pytest.raises(Interrupted):
        fake.run(GRID)
    assert len(fake.folders) == 3
    with pytest.raises(Interrupted):
        fake.run(GRID, resume=False)
    assert len(fake.folders) == 4


def test_a_sweep_that_must_exist_and_does_not(fake: FakeRuns) -> None:
    with pytest.raises(RunError, match="T614"):
        fake.run(GRID, resume=True)

    def metrics(recipe: Recipe) -> dict[str, float]:
        raise Interrupted.of("I101", "the run was interrupted")

    fake.metrics = metrics
    with pytest.raises(Interrupted):
        fake.run(GRID)
    with pytest.raises(RunError, match="T611") as caught:
        fake.run(GRID.replace("0.2]", "0.3]"), resume=True)
    assert "`sweep.grid.objective.beta[1]` was 0.2 and is 0.3" in str(caught.value)


def test_only_the_first_trials(fake: FakeRuns) -> None:
    result = fake.run(GRID, "sweep.max_trials=3").result
    assert [trial.number for trial in result.trials] == [1, 2, 3]


def test_after_its_hours_a_sweep_chooses_among_the_trials_that_have_finished(
    fake: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpo_recipes.jobs.trial_run.TrialRun.seconds", lambda run: 2000.0 * run.num_attempts())
    result = fake.run(GRID, "sweep.max_hours=1").result
    assert fake.executed == ["001", "002"]
    assert [trial.state for trial in result.trials] == ["finished", "finished", "not_run", "not_run"]
    assert result.trials[2].runs[0].reason == "the sweep ended before"
    assert result.best is not None
    assert result.best.trial == 2


def test_seeds_are_averaged_and_all_trials_come_before_the_second_seed(tmp_path: Path) -> None:
    """Half the width is t(2 degrees of freedom) = 4.3027 times s / √3."""
    fake = FakeRuns(tmp_path, lambda recipe: {"eval_loss": recipe.training.seed - 42 + recipe.training.learning_rate})
    finished = fake.run("sweep: {seeds: 3, grid: {training.learning_rate: [0.2, 0.1]}}\n")
    assert fake.executed == ["001-1", "002-1", "001-2", "002-2", "001-3", "002-3"]
    trial = finished.result.trials[1]
    assert [run.seed for run in trial.runs] == [42, 43, 44]
    assert trial.value == pytest.approx(1.1)
    assert trial.interval == pytest.approx(4.3027 * statistics.stdev([0.1, 1.1, 2.1]) / 3**0.5)
    best = finished.result.best
    assert best is not None
    assert (best.trial, best.run, best.is_within_noise) == (2, "trials/002-1", True)
    lines = describe_sweep(finished)
    assert lines[1:4] == [
        "trial  learning_rate  loss   95 %",
        "1      0.2            1.200  ± 2.484",
        "2      0.1            1.100  ± 2.484  best",
    ]
    assert "within the noise" in lines[5]
    assert json.loads((finished.directory.result).read_text())["trials"][1]["runs"][2]["seed"] == 44


def test_the_result_says_which_settings_matter(tmp_path: Path) -> None:
    grid = "sweep: {seeds: 3, grid: {training.learning_rate: [0.2, 0.1], data.max_length: [64, 128]}}\n"

    def metrics(recipe: Recipe) -> dict[str, float]:
        return {"eval_loss": recipe.training.learning_rate + 1e-4 * (recipe.training.seed - 42)}

    finished = FakeRuns(tmp_path, metrics).run(grid)
    stored = json.loads(finished.directory.result.read_text())["importances"]
    assert [(each["settings"], each["is_shown"]) for each in stored["settings"]] == [
        (["training.learning_rate"], True),
        (["data.max_length"], False),
    ]
    assert stored["settings"][0]["share"] > 0.99 > stored["settings"][0]["chance_share"]
    assert (stored["rest"], stored["seed_share"]) == (pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-4))
    assert "matters   training.learning_rate (100% of the variance)" in describe_sweep(finished)


def test_one_trial_with_several_seeds_is_a_sweep(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, lambda recipe: {"eval_loss": float(recipe.training.seed)})
    result = fake.run("training: {seed: 7}\nsweep: {seeds: 2}\n").result
    assert [run.value for run in result.trials[0].runs] == [7, 8]


def _trial(number: int, *values: float | None) -> TrialOutcome:
    runs = [RunOutcome(directory=f"{number}-{i}", seed=i, state="finished", value=v) for i, v in enumerate(values)]
    mean, interval = mean_and_interval([value for value in values if value is not None])
    return TrialOutcome(number=number, values={}, state="finished", value=mean, interval=interval, runs=runs)


def test_a_trial_that_lacks_a_run_stands_behind_complete_ones() -> None:
    best = choose_best([_trial(1, 0.1, None), _trial(2, 0.5, 0.4)], LOSS)
    assert best is not None
    assert (best.trial, best.run) == (2, "2-1")
    best = choose_best([_trial(1, 0.5), _trial(2, None), _trial(3, 0.7)], ACCURACY)
    assert best is not None
    assert (best.trial, best.lead) == (3, pytest.approx(0.2))
    assert choose_best([_trial(1, None)], LOSS) is None


def test_a_lead_beyond_the_spread_of_the_seeds_is_no_noise() -> None:
    best = choose_best([_trial(1, 0.50, 0.51, 0.49), _trial(2, 0.90, 0.91, 0.89)], LOSS)
    assert best is not None
    assert best.is_within_noise is False


def test_what_a_person_must_allow_is_asked_before_the_first_trial(fake: FakeRuns) -> None:
    with pytest.raises(RecipeError, match="R317") as caught:
        fake.run("sweep: {grid: {model.trust_remote_code: [false, true]}}\n")
    assert not (fake.folder / "runs").exists()
    where = caught.value.findings[0].where
    assert where is not None
    assert where.line == 7


def test_each_trial_is_validated_before_the_first_one_and_when_it_starts(
    fake: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep itself is validated once, and of its four trials each twice."""
    checked: list[str] = []
    check = validation.check_recipe

    def count(recipe: Recipe, composed: Composed) -> list[Finding]:
        checked.append(recipe.name)
        return check(recipe, composed)

    monkeypatch.setattr(validation, "check_recipe", count)
    result = fake.run(GRID).result
    names = [f"job-00{number}" for number in (1, 2, 3, 4)]
    assert checked == ["job", *names, *names]
    assert [trial.runs[0].seed for trial in result.trials] == [42] * 4


def test_nodes_on_the_command_line_are_refused_as_in_the_recipe(fake: FakeRuns) -> None:
    from dpo_recipes.jobs.sweep import run_sweep

    with pytest.raises(RecipeError, match="R368"):
        run_sweep(fake.validate(GRID), fake.events.append, RunOptions(flags=LaunchFlags(num_nodes=2)))


def _run_in_child(folder: Path, seconds: float) -> None:
    import time

    def slow(recipe: Recipe) -> dict[str, float]:
        time.sleep(seconds)
        return loss(recipe)

    FakeRuns(folder, slow).run(GRID)


def test_two_commands_share_the_trials_of_one_sweep(tmp_path: Path) -> None:
    """Both find or make the same directory; each run is executed once, and both end when all have ended."""
    context = multiprocessing.get_context("fork")
    commands = [context.Process(target=_run_in_child, args=(tmp_path, 0.1)) for _ in range(2)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)
    assert [command.exitcode for command in commands] == [0, 0]
    folders = FakeRuns(tmp_path, loss).folders
    attempts = [
        trial.runs[0].attempts for folder in folders for trial in SweepResult.read(folder / "result.json").trials
    ]
    assert attempts == [1, 1, 1, 1]
