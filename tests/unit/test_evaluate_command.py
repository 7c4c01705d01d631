"""`dpo-recipe evaluate`: its options become a section, names of runs their directories, and results tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.cli import evaluate as command
from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.recipe.schema.evaluate import Evaluate

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
EXAMPLES = re.findall(r"^dpo-recipe (evaluate .*?)(?:  #.*)?$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
RESULT: dict[str, Any] = {
    "schema": 1,
    "data": "the recipe of runs/mine",
    "split": "eval",
    "num_prompts": 2,
    "generation": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 16, "seed": 3},
    "models": [
        {
            "name": name,
            "reference": name,
            "device": "cpu",
            "dtype": "float32",
            "metrics": {
                "rewards/accuracies": {"value": 0.75, "low": 0.5, "high": 0.9, "count": 2},
                "length/tokens": {"value": value, "count": 1},
            },
        }
        for name, value in (("one", 3.0), ("other", 5.5))
    ],
    "comparisons": [
        {
            "model": "one",
            "against": "other",
            "differences": {"length/tokens": {"value": -2.5, "low": -4.0, "high": -1.0, "count": 2}},
            "win_rates": {"helpful": {"value": 0.5, "low": 0.25, "high": 0.75, "count": 2}},
            "length_controlled_win_rates": {"helpful": {"value": 0.6, "low": 0.3, "high": 0.8, "count": 2}},
        }
    ],
    "notes": ["A note."],
}


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Evaluate]:
    """The sections of the commands that are given in a folder with three runs. Nothing is evaluated."""
    monkeypatch.chdir(tmp_path)
    for number in ("0000aa", "0000bb", "0000cc"):
        run = tmp_path / "runs" / "mine" / f"20260112T093000Z-{number}"
        run.mkdir(parents=True)
        (run / "resolved.yaml").touch()
    Path("pairs.jsonl").touch()
    made: list[Evaluate] = []

    def record(section: Evaluate, *arguments: Any, **options: Any) -> EvaluationResult:
        made.append(section)
        return EvaluationResult.model_validate(RESULT)

    monkeypatch.setattr(command, "run_evaluation", record)
    return made


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_commands_in_the_documents_are_accepted(example: str, sections: list[Evaluate]) -> None:
    outcome = CliRunner().invoke(app, shlex.split(example))
    assert outcome.exit_code == 0, outcome.output
    assert len(sections) == 1


def test_examples_were_found_in_the_documents() -> None:
    assert len(EXAMPLES) >= 4


def test_names_of_runs_become_paths_and_options_a_section(sections: list[Evaluate], tmp_path: Path) -> None:
    arguments = "0000aa base org/model gpt2 --against 0000bb --data pairs.jsonl --limit 0 --temperature 0.7 --seed 3"
    outcome = CliRunner().invoke(app, ["evaluate", *arguments.split(), "--no-overlap"])
    assert outcome.exit_code == 0, outcome.output
    (section,) = sections
    runs = tmp_path / "runs" / "mine"
    assert section.models == [str(runs / "20260112T093000Z-0000aa"), "base", "org/model", "gpt2"]
    assert section.against == str(runs / "20260112T093000Z-0000bb")
    assert section.data == str(tmp_path / "pairs.jsonl")
    assert (section.limit, section.overlap) == (None, False)
    assert (section.generate.temperature, section.generate.seed) == (0.7, 3)


def test_sources_of_rewards_are_models_functions_and_mappings(sections: list[Evaluate], tmp_path: Path) -> None:
    sources = ["0000bb", "org/judge", "judge.py:score", "{rule: length, max: 5}"]
    outcome = CliRunner().invoke(app, ["evaluate", "0000aa", *(word for one in sources for word in ("--reward", one))])
    assert outcome.exit_code == 0, outcome.output
    plain = [one.model_dump(exclude_unset=True) for one in sections[0].rewards]
    assert plain == [
        {"model": str(tmp_path / "runs" / "mine" / "20260112T093000Z-0000bb")},
        {"model": "org/judge"},
        {"function": f"{tmp_path / 'judge.py'}:score"},
        {"rule": "length", "max": 5},
    ]
    wrong = CliRunner().invoke(app, ["evaluate", "0000aa", "--reward", "{rule: lenght}"])
    assert wrong.exit_code == 2
    assert "rewards.0.rule" in wrong.output


def test_a_run_that_does_not_exist_is_an_error_and_no_hub_id(sections: list[Evaluate]) -> None:
    outcome = CliRunner().invoke(app, ["evaluate", "00ffee"])
    assert isinstance(outcome.exception, RunError)
    assert outcome.exception.findings[0].code == "T640"
    assert not sections


def test_a_value_out_of_range_is_a_usage_error(sections: list[Evaluate]) -> None:
    outcome = CliRunner().invoke(app, ["evaluate", "0000aa", "--top-p", "0"])
    assert outcome.exit_code == 2
    assert "top_p" in outcome.output
    assert not sections


def test_tables_have_intervals_signs_and_win_rates(sections: list[Evaluate]) -> None:
    shown = CliRunner().invoke(app, ["evaluate", "0000aa"]).stdout
    assert (
        "2 prompts of the recipe of runs/mine (`eval` rows), answered at temperature 0.70, top-p 0.95, seed 3" in shown
    )
    assert re.search(r"Implicit reward accuracy +75\.0% \[50\.0%, 90\.0%\] +75\.0%", shown)
    assert re.search(r"Tokens of an answer +3\.0 +5\.5\n", shown)
    assert re.search(r"Tokens of an answer +−2\.5 \[−4\.0, −1\.0\]\n", shown)
    assert "Win-rate over other" in shown
    assert re.search(r"helpful +50\.0% \[25\.0%, 75\.0%\]\nhelpful, at equal length +60\.0%", shown)
    assert "A note." in shown
    as_json = CliRunner().invoke(app, ["evaluate", "0000aa", "--json"]).stdout
    assert EvaluationResult.model_validate_json(as_json) == EvaluationResult.model_validate(RESULT)


def test_a_file_that_is_no_result_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    EvaluationResult.model_validate(RESULT).write(path)
    assert EvaluationResult.read(path) == EvaluationResult.model_validate(RESULT)
    for text in ("{", '{"schema": 2}', "[]"):
        path.write_text(text)
        with pytest.raises(RunError, match="T642"):
            EvaluationResult.read(path)
