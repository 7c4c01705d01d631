"""Running a chain: the order of its steps, what is done again and what is kept, and what a failure stops."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
from chains import CHAIN, DATA, FakeSteps, write_model

from dpo_recipes.errors import EXIT_RUN, Interrupted, RecipeError, RunError
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.workflow import RunOptions

BRANCHES = f"""\
schema: 1
name: job
steps:
  one: {{model: {{path: owner/model}}, {DATA}}}
  two: {{model: {{path: step:one}}, {DATA}}}
  three: {{model: {{path: step:two}}, {DATA}}}
  other: {{model: {{path: owner/model}}, {DATA}, training: {{seed: 5}}}}
"""


@pytest.fixture
def fake(tmp_path: Path) -> FakeSteps:
    return FakeSteps(tmp_path)


def _fail(*names: str, code: str = "M504") -> Any:
    """Makes the named recipes fail."""

    def made(recipe: Recipe) -> str:
        if recipe.name in names:
            raise RunError.of(code, f"{recipe.name} broke", why="a test", fix="none")
        return f"{recipe.training.learning_rate} {recipe.training.seed}"

    return made


def test_steps_run_in_the_order_of_need_with_what_the_others_made(fake: FakeSteps) -> None:
    finished = fake.run()
    assert fake.executed == ["job-sft", "job-dpo"]
    sft, dpo = finished.result.steps
    assert fake.recipes["job-dpo"].model.path == str(finished.directory.path / str(sft.product))
    assert (sft.state, sft.makes, sft.needs, sft.attempts) == ("finished", "model", {}, 1)
    assert (dpo.needs, dpo.work) == ({"model.path": "sft"}, "DPO (sigmoid)")
    (loss,) = [figure for figure in sft.figures if figure.key == "loss"]
    assert (loss.value, loss.base_value, loss.text, loss.base_text) == (0.5, 0.75, "0.500", "0.750")
    assert (fake.folders[0] / "chain.yaml").is_file()
    assert (fake.folders[0] / str(sft.directory) / "result.json").is_file()
    plain = fake.plain()
    assert (plain["kind"], plain["status"], plain["recipe"]) == ("chain", "finished", "job")
    assert ChainResult.read(fake.folders[0] / "result.json") == finished.result


def test_a_source_of_rewards_is_the_run_of_its_step(fake: FakeSteps) -> None:
    """The run has the template and the length that the model was trained with, and its base if it is an adapter."""
    text = f"""\
schema: 1
name: job
steps:
  reward: {{model: {{path: owner/model, adapter: {{kind: lora}}}}, {DATA}, objective: {{kind: reward}}}}
  rl: {{model: {{path: owner/model}}, {DATA}, objective: {{kind: rloo, rewards: [{{model: step:reward}}]}}}}
"""
    finished = fake.run(text)
    directory = finished.directory.path / str(finished.result.steps[0].directory)
    rewards: Any = fake.recipes["job-rl"].objective
    assert [source.model for source in rewards.rewards] == [str(directory)]
    fake.run(text, "steps.reward.training.seed=3")
    assert fake.executed == ["job-reward", "job-rl"]


def test_events_tell_what_happens(fake: FakeSteps) -> None:
    fake.run()
    first, *others = fake.events
    assert (first["event"], first["steps"], first["done"], first["resumed"]) == ("chain", ["sft", "dpo"], [], False)
    assert [(event["event"], event["name"]) for event in others] == [
        ("chain_step", "sft"),
        ("chain_step_ended", "sft"),
        ("chain_step", "dpo"),
        ("chain_step_ended", "dpo"),
    ]
    assert others[1]["figures"] == "loss 0.500, token accuracy 25.0%"


def test_a_chain_that_has_finished_is_not_done_again(fake: FakeSteps) -> None:
    first = fake.run()
    again = fake.run()
    assert fake.executed == []
    assert again.result == first.result
    assert fake.events[0]["done"] == ["sft", "dpo"]
    assert len(fake.folders) == 1
    assert fake.run(resume=False).directory != first.directory
    assert fake.executed == ["job-sft", "job-dpo"]


def test_changing_a_later_step_keeps_the_earlier_ones(fake: FakeSteps) -> None:
    fake.run()
    changed = fake.run(CHAIN, "steps.dpo.training.learning_rate=2e-5")
    assert fake.executed == ["job-dpo"]
    assert len(fake.folders) == 1
    assert len(list((fake.folders[0] / "steps").glob("dpo-*/result.json"))) == 2  # the earlier one is kept
    assert fake.result() == changed.result
    fake.run()
    assert fake.executed == []  # both versions are there


def test_changing_an_earlier_step_does_the_later_ones_again(fake: FakeSteps) -> None:
    fake.run()
    fake.run(CHAIN, "steps.sft.training.seed=7")
    assert fake.executed == ["job-sft", "job-dpo"]


def test_an_earlier_step_that_makes_the_same_keeps_the_later_ones(tmp_path: Path) -> None:
    fake = FakeSteps(tmp_path, made=lambda recipe: "the same")
    fake.run()
    fake.run(CHAIN, "steps.sft.training.seed=7")
    assert fake.executed == ["job-sft"]  # by content and not by time


def test_what_does_not_change_a_result_changes_nothing(fake: FakeSteps) -> None:
    fake.run()
    fake.run(CHAIN, "parallel=1", "steps.sft.launch.num_threads=1", "steps.dpo.checkpoints.save_steps=5")
    assert fake.executed == []


def test_the_content_of_data_counts_and_not_its_place(fake: FakeSteps, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    text = CHAIN.replace("{path: owner/pairs, limit: 100}", f"{{path: {data}}}", 1)
    fake.run(text)
    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(data, moved)
    fake.run(text.replace("pairs.jsonl", "elsewhere.jsonl"))
    assert fake.executed == []
    moved.write_text('{"prompt": "a", "chosen": "b", "rejected": "d"}\n', encoding="utf-8")
    fake.run(text.replace("pairs.jsonl", "elsewhere.jsonl"))
    assert fake.executed[0] == "job-sft"


def test_the_rows_of_a_recipe_that_models_answer_count(fake: FakeSteps, tmp_path: Path) -> None:
    from dpo_recipes.jobs.chain_directory import ChainDirectory
    from dpo_recipes.jobs.step_run import runs_of

    rules = "answers: 2, rewards: [{rule: length, max: 5}]"
    text = f"schema: 1\nname: job\nsteps:\n  s: {{kind: sample, models: [owner/model], data: base.yaml, {rules}}}\n"
    data, base = tmp_path / "pairs.jsonl", tmp_path / "base.yaml"

    def key() -> str:
        (run,) = runs_of(ChainDirectory(tmp_path / "job"), fake.validate(text).steps, 0.0)
        return run.key

    def write(file: Path, rate: str = "1e-5") -> None:
        lines = (
            f"model: {{path: owner/model}}\ndata: {{train: [{{path: {file}}}]}}\ntraining: {{learning_rate: {rate}}}\n"
        )
        base.write_text(f"schema: 1\nname: base\n{lines}", encoding="utf-8")

    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    write(data)
    first = key()
    write(data, "2e-5")
    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(data, moved)
    write(moved)
    assert key() == first  # neither the rate nor the place of the file determines the rows
    moved.write_text('{"prompt": "x", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    assert key() != first


def test_other_versions_of_libraries_count(fake: FakeSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.run()
    monkeypatch.setattr("dpo_recipes.jobs.step_run.package_versions", lambda: {"torch": "99", "rich": "1"})
    fake.run()
    assert fake.executed == ["job-sft", "job-dpo"]
    monkeypatch.setattr("dpo_recipes.jobs.step_run.package_versions", lambda: {"torch": "99", "rich": "2"})
    fake.run()
    assert fake.executed == []


def test_a_step_whose_model_was_removed_is_done_again(fake: FakeSteps) -> None:
    finished = fake.run()
    shutil.rmtree(finished.directory.path / str(finished.result.steps[0].product))
    fake.run()
    assert fake.executed == ["job-sft"]  # the same model, so the next step is kept


def test_a_failed_step_is_named_and_stops_only_what_needs_it(tmp_path: Path) -> None:
    fake = FakeSteps(tmp_path, made=_fail("job-two"))
    with pytest.raises(RunError) as caught:
        fake.run(BRANCHES)
    assert fake.executed == ["job-one", "job-two", "job-other"]
    (finding,) = caught.value.findings
    assert (finding.code, caught.value.exit_code) == ("T662", EXIT_RUN)
    assert finding.what == "step `two` of the chain failed"
    assert finding.why == "two: job-two broke (M504); without it, three could not begin"
    steps = {step.name: step for step in fake.result().steps}
    assert {name: step.state for name, step in steps.items()} == {
        "one": "finished",
        "two": "failed",
        "three": "not_run",
        "other": "finished",
    }
    assert (steps["two"].code, steps["two"].reason) == ("M504", "job-two broke")
    assert steps["three"].reason == "it needs step `two`, which has no result"
    assert fake.plain()["status"] == "failed"


def test_the_next_command_tries_a_failed_step_again(tmp_path: Path) -> None:
    fake = FakeSteps(tmp_path, made=_fail("job-one", "job-other"))
    with pytest.raises(RunError, match="the steps `one` and `other` of the chain failed"):
        fake.run(BRANCHES)
    with pytest.raises(RunError, match="T662"):
        fake.run(BRANCHES)
    assert fake.executed == ["job-one", "job-other"]
    fake.made = _fail()
    fake.run(BRANCHES)
    assert fake.executed == ["job-one", "job-two", "job-three", "job-other"]
    assert fake.result().status == "finished"
    assert [step.attempts for step in fake.result().steps] == [3, 1, 1, 3]


def test_an_interruption_ends_the_command_and_the_next_one_goes_on(fake: FakeSteps) -> None:
    def interrupted(recipe: Recipe) -> str:
        if recipe.name == "job-two":
            raise Interrupted.of("I101", "the run was interrupted")
        return "weights"

    fake.made = interrupted
    with pytest.raises(Interrupted):
        fake.run(BRANCHES)
    assert fake.executed == ["job-one", "job-two"]
    assert not (fake.folders[0] / "result.json").exists()
    fake.made = lambda recipe: "weights"
    fake.run(BRANCHES)
    assert fake.executed == ["job-two", "job-three", "job-other"]


def test_errors_of_the_machine_end_the_command(tmp_path: Path) -> None:
    fake = FakeSteps(tmp_path, made=_fail("job-one", code="T602"))
    with pytest.raises(RunError, match="T602"):
        fake.run(BRANCHES)
    assert fake.executed == ["job-one"]


def test_resume_needs_a_chain_that_was_started(fake: FakeSteps) -> None:
    with pytest.raises(RunError, match="T614"):
        fake.run(resume=True)
    fake.run()
    fake.run(resume=True)
    assert fake.executed == []


def test_another_version_does_not_disturb_a_command_at_work(fake: FakeSteps) -> None:
    finished = fake.run()
    with (finished.directory.path / "steps" / "dpo-0.lock").open("a") as lock:
        from dpo_recipes.locks import try_lock

        assert try_lock(lock)
        with pytest.raises(RunError, match="T615"):
            fake.run(CHAIN, "steps.dpo.training.seed=3")
        fake.run(CHAIN, "parallel=2")  # the same steps: it joins
        fake.run(CHAIN, "steps.dpo.training.seed=3", resume=False)
    assert len(fake.folders) == 2


def test_a_damaged_chain_file_is_written_again(fake: FakeSteps) -> None:
    finished = fake.run()
    finished.directory.resolved_recipe.write_text("{", encoding="utf-8")
    fake.run()
    assert fake.executed == []
    assert "step:sft" in finished.directory.resolved_recipe.read_text(encoding="utf-8")


def test_what_a_person_must_allow_is_asked_before_the_first_step(fake: FakeSteps) -> None:
    with pytest.raises(RecipeError, match="R317"):
        fake.run(CHAIN, "steps.dpo.model.trust_remote_code=true")
    with pytest.raises(RecipeError, match="R368"):
        fake.run(options=RunOptions(flags=LaunchFlags(num_nodes=2)))
    assert not (fake.folder / "runs").exists()


def test_a_step_is_checked_again_with_the_paths_it_gets(tmp_path: Path) -> None:
    """What a step made may be no model, although it should be: the next one fails with the error of a recipe."""
    fake = FakeSteps(tmp_path)
    made = fake.made

    def without_config(recipe: Recipe) -> str:
        return made(recipe)

    fake.made = without_config
    fake.run()
    model = fake.folders[0] / str(fake.result().steps[0].product)
    (model / "config.json").unlink()
    with pytest.raises(RunError, match="R301"):
        fake.run()
    assert fake.result().steps[1].code == "R301"


def test_steps_that_do_not_need_each_other_run_at_the_same_time(fake: FakeSteps) -> None:
    from dpo_recipes.jobs.chain import _share
    from dpo_recipes.jobs.chain_directory import ChainDirectory
    from dpo_recipes.jobs.step_run import runs_of

    def num_processes(text: str, *overrides: str) -> int:
        validated = fake.validate(text, *overrides)
        runs = runs_of(ChainDirectory(fake.folder), validated.steps, 0.0)
        return len(_share(validated, runs, RunOptions()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpo_recipes.jobs.devices.count_gpus", lambda: 0)
        assert num_processes(BRANCHES) == 1  # one CPU
        assert num_processes(BRANCHES, "parallel=2") == 2
        assert num_processes(BRANCHES, "parallel=8") == 2
        assert num_processes(CHAIN, "parallel=8") == 1
        patch.setattr("dpo_recipes.jobs.devices.count_gpus", lambda: 4)
        assert num_processes(BRANCHES) == 2
        assert num_processes(CHAIN) == 1


def _diamonds(count: int) -> str:
    """Steps of which each two need the one before them, and the next one needs both."""
    text = f"schema: 1\nname: job\nsteps:\n  end0: {{model: {{path: owner/model}}, {DATA}}}\n"
    for number in range(1, count + 1):
        for side in "ab":
            text += f"  {side}{number}: {{model: {{path: step:end{number - 1}}}, {DATA}, objective: {{kind: OF}}}}\n"
            text = text.replace("OF", {"a": "sft", "b": "reward"}[side])
        rewards = f"objective: {{kind: rloo, rewards: [{{model: step:b{number}}}]}}"
        text += f"  end{number}: {{model: {{path: step:a{number}}}, {DATA}, {rewards}}}\n"
    return text


def test_a_look_at_a_deep_chain_reads_each_step_once(fake: FakeSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at each step of 30 diamonds, one behind the other. There are 2**30 ways from the last step to the first,
    and 91 * 90 / 2 pairs of a step and one before it."""
    from dpo_recipes.jobs.chain_directory import ChainDirectory
    from dpo_recipes.jobs.step_run import StepRun, runs_of
    from dpo_recipes.jobs.work import _left

    looks = 0
    inner = StepRun._state_of_files

    def counted(run: StepRun) -> Any:
        nonlocal looks
        looks += 1
        return inner(run)

    monkeypatch.setattr(StepRun, "_state_of_files", counted)
    runs = runs_of(ChainDirectory(fake.folder), fake.validate(_diamonds(30)).steps, 0.0)
    assert len(runs) == 91
    assert _left(runs) == runs
    assert looks <= 3 * len(runs)  # only the first one can have files
    for run in runs:
        write_model(run.product_path)
        (run.run.path / "result.json").write_text("{}", encoding="utf-8")
    looks = 0
    assert _left(runs) == []
    assert looks <= 3 * len(runs)


def _run_in_child(folder: Path) -> None:
    import time

    def slow(recipe: Recipe) -> str:
        time.sleep(0.1)
        return f"{recipe.training.seed}"

    FakeSteps(folder, slow).run(BRANCHES)


def test_two_commands_share_the_steps_of_one_chain(tmp_path: Path) -> None:
    """Both find or make the same directory; each step is executed once, and both end when all have ended."""
    context = multiprocessing.get_context("fork")
    commands = [context.Process(target=_run_in_child, args=(tmp_path,)) for _ in range(2)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)
    assert [command.exitcode for command in commands] == [0, 0]
    assert [step.attempts for step in FakeSteps(tmp_path).result().steps] == [1, 1, 1, 1]


def test_the_result_of_another_kind_is_not_read_as_that_of_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"schema": 1, "kind": "sweep"}), encoding="utf-8")
    with pytest.raises(RunError, match="T642"):
        ChainResult.read(path)
