"""Renders sampled preference data as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_recipes.evaluate.result import SampleResult
from dpo_recipes.formats import format_count, format_number
from dpo_recipes.report.bars import REWARDS, BarChart, bin_values, lay_out_bars
from dpo_recipes.report.evaluation_page import describe_generation, prompt_text
from dpo_recipes.report.sampling_tables import SAMPLING_NOTE, list_sampling_tables
from dpo_recipes.report.sections import Tile
from dpo_recipes.report.templates import load_templates
from dpo_recipes.run_dir import read_json_lines

_SHOWN = 12
"""The number of prompts whose answers the page shows; the file has all of them."""


def render_sampling(result: SampleResult, answers_file: Path) -> str:
    """The page of sampled data as the text of one HTML file. The answers are read from the file beside it."""
    lines = read_json_lines(answers_file)
    names = [model.name for model in result.models]
    shown = [line for line in lines if line["left_out"] is None][:_SHOWN]
    page = load_templates().get_template("sampling.html.jinja")
    text = page.render(
        title=" and ".join(names) if len(names) < 3 else f"{len(names)} models",
        verdict=describe_sampling(result),
        tiles=_tiles(result),
        tables=list_sampling_tables(result),
        note=SAMPLING_NOTE,
        charts=_charts(lines),
        samples=[_sample(line, several=len(names) > 1) for line in shown],
        num_rows=format_count(result.num_rows),
        answers_file=answers_file.name,
        models=result.models,
        packages=result.packages,
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in an answer


def describe_sampling(result: SampleResult) -> str:
    """The answers and what was made of them, in one or two sentences."""
    prompts = f"{format_count(result.num_prompts)} prompt{'s' * (result.num_prompts != 1)}"
    rows = f"{format_count(result.num_rows)} row{'s' * (result.num_rows != 1)} of preference data"
    how = "" if result.generation is None else f", given {describe_generation(result.generation)}"
    sentence = f"{format_count(result.num_answers)} answers to {prompts} of {result.data}{how}: {rows}."
    left = sum(result.left_out.values())
    return f"{sentence} {format_count(left)} rows or prompts were left out." if left else sentence


def _tiles(result: SampleResult) -> list[Tile]:
    tiles = [
        Tile("Prompts", format_count(result.num_prompts)),
        Tile("Answers", format_count(result.num_answers)),
        Tile("Rows", format_count(result.num_rows), f"{format_count(sum(result.left_out.values()))} left out"),
    ]
    if result.best is not None and result.worst is not None:
        best, worst = (list(each.rewards.values())[-1].value for each in (result.best, result.worst))
        shown = format_number(worst, signed=True)
        tiles.append(Tile("Mean reward of the best answers", format_number(best, signed=True), f"worst {shown}"))
    return tiles


def _charts(lines: list[dict[str, Any]]) -> list[BarChart]:
    """The distributions of rewards and lengths."""
    every = [answer for line in lines for answer in line["answers"]]
    pairs = [_ends(line) for line in lines if line["left_out"] is None]
    ends = {name: [pair[place] for pair in pairs] for place, name in enumerate(("best", "worst"))}
    rewards = {name: [_reward(answer) for answer in answers] for name, answers in ends.items()}
    tokens = {name: [answer["tokens"] for answer in answers] for name, answers in ends.items()}
    differences = [_reward(best) - _reward(worst) for best, worst in pairs]
    return [
        lay_out_bars(
            "Rewards of all answers",
            "Also of those that were left out.",
            bin_values({"all": [_reward(answer) for answer in every]}),
            axis=REWARDS,
        ),
        lay_out_bars(
            "Rewards of the best and the worst answers",
            "Where the two overlap, the best answer to one prompt is no better than the worst one to another.",
            bin_values(rewards),
            axis=REWARDS,
        ),
        lay_out_bars(
            "Best minus worst reward",
            "Rows near 0 teach little. A higher min_difference leaves them out.",
            bin_values({"difference": differences}),
            axis=REWARDS,
        ),
        lay_out_bars(
            "Lengths of the best and the worst answers",
            "If the best answers are mostly the longer or the shorter ones, the model learns that first.",
            bin_values(tokens, is_whole=True),
        ),
    ]


def _reward(answer: dict[str, Any]) -> float:
    """The weighted sum of all sources."""
    return list(answer["rewards"].values())[-1]


def _ranked(line: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted((answer for answer in line["answers"] if answer["rank"]), key=lambda answer: answer["rank"])


def _ends(line: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best and the worst answer to a prompt."""
    ranked = _ranked(line)
    return ranked[0], ranked[-1]


def _sample(line: dict[str, Any], *, several: bool) -> dict[str, Any]:
    """A prompt with its best and worst answer, and the others."""
    best, worst = _ends(line)
    others = [answer for answer in _ranked(line) if answer is not best and answer is not worst]
    others += [answer for answer in line["answers"] if not answer["rank"]]

    def card(name: str, answer: dict[str, Any]) -> tuple[str, str, int]:
        by = f" of {answer['model']}" if several else ""
        title = f"{name}{by}: {format_number(_reward(answer), signed=True)}"
        return title, answer["text"], len(answer["text"].split())

    return {
        "prompt": prompt_text(line),
        "pair": [card("Best", best), card("Worst", worst)],
        "others": [
            card(f"Rank {each['rank']}" if each["rank"] else f"Not used, {each['flaw']}", each) for each in others
        ],
    }
