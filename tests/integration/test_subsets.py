"""The accuracy of each subset of the held-out rows, from the column in the file to the tables of report and card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.subset_counts import SubsetCounts
from dpo_recipes.formats import format_percent
from dpo_recipes.significance import accuracy_interval

Work = Callable[..., "Outcome"]  # noqa: F821
ROWS = [(0, "plain"), (1, "swapped"), (2, "plain"), (3, None), (4, "swapped"), (5, "plain"), (6, "a | b")]
"""The numbers and categories of the held-out rows. The model learns that "6." is better than "Many things ...", and the
answers of `swapped` are exchanged, so its accuracies are 1 and 0."""


def make_counts(names: tuple[str, ...], num_processes: int = 1) -> SubsetCounts:
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=num_processes, reduce=lambda counts, reduction: counts * num_processes
    )
    return SubsetCounts("accuracy", names, accelerator)


def test_means_are_over_the_rows_of_a_subset_and_not_over_batches() -> None:
    """By hand: `a` has 1, 0, 1 in two batches of unequal size, `b` has a single 0, `c` no row; -1 is no subset."""
    counts = make_counts(("a", "b", "c"))
    counts.add(torch.tensor([0, -1, 0]), torch.tensor([1.0, 1.0, 0.0]))
    counts.add(torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
    assert counts.take_means() == {"accuracy/a": 2 / 3, "accuracy/b": 0.0}
    assert counts.take_means() == {}


def test_the_counts_of_all_processes_are_added_once() -> None:
    counts = make_counts(("a", "b"), num_processes=2)
    counts.add(torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.0, 1.0]))
    assert counts.take_means() == {"accuracy/a": 0.5, "accuracy/b": 1.0}
    counts.add(torch.tensor([0]), torch.tensor([1.0]))
    counts.clear()
    assert counts.take_means() == {}


def write_held_out(folder: Path, name: str = "held_out.jsonl") -> Path:
    rows = []
    for number, category in ROWS:
        answers = [f"{number + 1}.", f"Many things could be said about {number}."]
        chosen, rejected = reversed(answers) if category == "swapped" else answers
        question = f"What is {number} plus one, please?"
        rows.append({"prompt": question, "chosen": chosen, "rejected": rejected, "category": category})
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


def recipe_of(kind: str, model: Path, folder: Path, *, named: bool = True) -> str:
    held_out = write_held_out(folder)
    columns = ", columns: {subset: category}" if named else ""
    source = f"{{sources: [{{path: '{held_out}'{columns}}}]}}"
    text = recipe_text(model, write_pairs(folder / "pairs.jsonl"), f"objective: {{kind: {kind}}}\n")
    text = text.replace("eval: {fraction: 0.25}", f"eval: {source}\n  test: {source}")
    return text.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", "evaluation: {num_samples: 0}\n")


@pytest.mark.parametrize("kind", ["dpo", "reward", "orpo"])
def test_an_evaluation_gives_the_accuracy_of_each_subset(
    work: Work, tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    outcome = work(recipe_of(kind, tiny_model, tmp_path), "training.max_steps=6", "training.eval_steps=6")
    assert outcome.exit_code == 0
    result = outcome.result
    metric = "accuracy" if kind == "reward" else "rewards/accuracies"
    # With the row without a subset. TRL's trainer takes the mean over micro-batches: 1/2, 1, 1/2 and 1.
    overall = 3 / 4 if kind == "dpo" else 5 / 7
    expected = {"a | b": 1.0, "plain": 1.0, "swapped": 0.0}
    for split in ("eval", "test"):
        found = {name: result["metrics"][f"{split}_{metric}/{name}"] for name in expected}
        assert found == expected
        assert result["metrics"][f"{split}_{metric}"] == pytest.approx(overall)
        assert f"{split}_{metric}/plain" in result["base_metrics"]
        assert result["subsets"][split] == {"a | b": 1, "plain": 3, "swapped": 2}
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    assert [row[f"eval_{metric}/swapped"] for row in rows if row["step"] == 6 and "eval_loss" in row] == [0.0]
    assert any(row.get(f"test_{metric}/plain") == 1.0 for row in rows)
    assert not any(f"{metric}/plain" in row for row in rows)

    low, high = (format_percent(bound, 1) for bound in accuracy_interval(1.0, 3))
    page = outcome.run.report.read_text(encoding="utf-8")
    assert f"<td>100.0%</td><td>{low} to {high}</td>" in page
    card = (outcome.run.path / "model" / "README.md").read_text(encoding="utf-8")
    table = card.partition("of each subset:\n\n")[2].splitlines()
    base = "" if kind == "dpo" else "base | "
    assert table[0] == f"| subset | pairs | {base}tuned | 95% interval |"
    assert table[1] == "| --- | ---: |" + " ---: |" * (2 if kind == "dpo" else 3)
    assert table[2].startswith("| a \\| b | 1 | ")
    assert table[3].endswith(f"| 100.0% | {low} to {high} |")
    assert table[3].startswith("| plain | 3 | ")
    assert table[5] == "", "the test rows have a table of their own"
    assert card.count("of each subset:") == 2


def test_kto_counts_labelled_rows_by_subset(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    """Each pair becomes two rows of its subset, and the overall accuracy is the mean over all 14 rows."""
    outcome = work(recipe_of("kto", tiny_model, tmp_path), "training.max_steps=2")
    result = outcome.result
    assert result["subsets"]["eval"] == {"a | b": 2, "plain": 6, "swapped": 4}
    values = {name: result["metrics"][f"eval_rewards/accuracies/{name}"] for name in ("a | b", "plain", "swapped")}
    counted = sum(values[name] * count for name, count in result["subsets"]["eval"].items())
    overall = result["metrics"]["eval_rewards/accuracies"] * 14
    assert round(overall - counted) in (0, 1, 2), "the pair without a subset has two rows"
    assert overall - counted == pytest.approx(round(overall - counted))


def test_without_a_subset_nothing_changes(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    runs = [work(recipe_of("reward", tiny_model, tmp_path, named=named)) for named in (True, False)]
    named, plain = (outcome.result for outcome in runs)
    assert plain["subsets"] == {}
    assert plain["metrics"] == {name: value for name, value in named["metrics"].items() if "accuracy/" not in name}
    assert "of each subset" not in runs[1].run.report.read_text(encoding="utf-8")
    steps = [
        [row for row in map(json.loads, outcome.run.metrics.read_text().splitlines()) if "loss" in row]
        for outcome in runs
    ]
    for mine, theirs in zip(*steps, strict=True):
        assert mine["loss"] == theirs["loss"]


def test_an_interrupted_evaluation_leaves_no_counts(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    """The evaluation of the base stops in its second batch, and the next one starts from zero."""
    from dpo_recipes.engine.engine_trainer import EngineTrainer

    text = recipe_of("reward", tiny_model, tmp_path)
    calls: list[Any] = []
    own = EngineTrainer.evaluate

    def twice(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not calls:
            calls.append(self)
            self.subset_counts.add(torch.tensor([0, 1, 2]), torch.tensor([0.0, 0.0, 1.0]))
        return own(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineTrainer, "evaluate", twice)
        outcome = work(text, "training.max_steps=6")
    base = outcome.result["base_metrics"]
    assert calls
    assert base["eval_accuracy/plain"] == base["test_accuracy/plain"]
    assert base["eval_accuracy/swapped"] == base["test_accuracy/swapped"]
