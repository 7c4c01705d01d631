"""Sources of rewards: their section of a recipe, its checks, the built-in rules, and functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dpo_recipes.errors import Finding, RecipeError, RunError
from dpo_recipes.recipe.compose import compose
from dpo_recipes.recipe.paths import resolve_paths
from dpo_recipes.recipe.reward_checks import check_reward_sources
from dpo_recipes.reward_settings import REWARD_SECTIONS, Reward, RewardSettings, needed_columns, source_names
from dpo_recipes.rewards.base import RewardContext, RewardSources

Write = Callable[[str, str], Path]
SOURCES = TypeAdapter(list[Reward])


def parse(*sources: dict[str, Any]) -> list[RewardSettings]:
    return SOURCES.validate_python(list(sources))


def score(source: dict[str, Any], *answers: str, **columns: Sequence[Any]) -> list[float]:
    rewards = RewardSources(parse(source), RewardContext("cpu"))
    prompts = [[{"role": "user", "content": "?"}]] * len(answers)
    return rewards.score(prompts, answers, columns).total  # type: ignore[arg-type]


# The section


def test_one_key_chooses_the_kind_of_a_source() -> None:
    kinds = [source.kind for source in parse({"model": "a/b"}, {"function": "x.py:f"}, {"rule": "json"})]
    assert kinds == ["model", "function", "json"]


@pytest.mark.parametrize(
    ("source", "kind", "place"),
    [
        ({"weight": 1.0}, "missing", "model"),
        ({"rule": "wit"}, "literal_error", "rule"),
        ({"rule": ["json"]}, "literal_error", "rule"),
        ({"model": "a/b", "rule": "json"}, "extra_forbidden", "rule"),
        ({"rule": "json", "pattern": "x"}, "extra_forbidden", "pattern"),
        ({"function": "scores.politeness"}, "string_pattern_mismatch", "function"),
        ({"rule": "regex"}, "missing", "pattern"),
    ],
)
def test_a_source_that_does_not_fit_the_schema(source: dict[str, Any], kind: str, place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(source)
    (error,) = caught.value.errors()
    assert error["type"] == kind
    assert error["loc"][0] == 0
    assert error["loc"][-1] == place


def test_sources_have_distinct_names() -> None:
    sources = parse(
        {"model": "runs/reward/a1/"}, {"rule": "regex", "pattern": "a"}, {"rule": "regex", "pattern": "b"},
        {"rule": "json", "name": "form"}, {"function": "/x/scores.py:polite"},
    )  # fmt: skip
    assert source_names(sources) == ["a1", "regex", "regex-2", "form", "polite"]


def test_needed_columns_are_those_of_all_sources() -> None:
    sources = parse(
        {"rule": "exact", "column": "solution"},
        {"function": "x.py:f", "takes": ["topic", "solution"]},
        {"rule": "json"},
    )
    assert needed_columns(sources) == ("solution", "topic")


def test_every_field_has_a_description_and_every_class_another_key() -> None:
    for section in REWARD_SECTIONS:
        assert all(field.description for field in section.model_fields.values())
        assert section.selector in section.model_fields


# Rules


@pytest.mark.parametrize(
    ("settings", "answer", "expected"),
    [
        ({"min": 4}, "one two", 0.5),
        ({"min": 2, "max": 3}, "one two three", 1.0),
        ({"max": 4}, "1 2 3 4 5", 0.75),
        ({"max": 2}, "1 2 3 4 5 6", 0.0),
        ({"min": 1}, "", 0.0),
        ({"unit": "characters", "max": 3}, "abc", 1.0),
    ],
)
def test_length(settings: dict[str, Any], answer: str, expected: float) -> None:
    assert score({"rule": "length", **settings}, answer) == [expected]


def test_regex_counts_matches_up_to_the_wanted_number() -> None:
    answers = ("no", "Thanks.", "thanks, thanks, thanks", "thanksgiving")
    pattern = r"(?i)\bthanks\b"
    assert score({"rule": "regex", "pattern": pattern}, *answers) == [0.0, 1.0, 1.0, 0.0]
    assert score({"rule": "regex", "pattern": pattern, "count": 2}, *answers) == [0.0, 0.5, 1.0, 0.0]
    assert score({"rule": "regex", "pattern": r"\w+", "whole": True}, " yes ", "yes sir") == [1.0, 0.0]


def test_json_with_keys_and_in_a_code_block() -> None:
    answers = ('{"a": 1}', '```json\n{"a": 1}\n```', "{'a': 1}", "[1]", "NaN", "[" * 100_000, "")
    assert score({"rule": "json"}, *answers) == [1, 1, 0, 1, 0, 0, 0]
    assert score({"rule": "json", "keys": ["a"]}, *answers) == [1, 1, 0, 0, 0, 0, 0]
    assert score({"rule": "json", "allow_fence": False}, answers[1]) == [0]


def test_exact_compares_with_a_column() -> None:
    rule = {"rule": "exact", "column": "solution"}
    assert score(rule, " 4 ", "4.0", "four", solution=["4", 4.0, "Four"]) == [1, 0, 0]
    assert score({**rule, "ignore_case": True}, "four", solution=["Four"]) == [1]
    extract = {**rule, "extract": r"answer is (\S+)"}
    answers = ("First the answer is 3, no: the answer is 4", "4")
    assert score(extract, *answers, solution=[4, 4]) == [1, 0]


def test_repetition_is_minus_the_share_of_repeated_ngrams() -> None:
    """`a b a b a b` has the bigrams ab, ba, ab, ba, ab: 2 of 5 are new, so that 3 of 5 repeat."""
    rule = {"rule": "repetition", "ngram": 2}
    assert score(rule, "a b a b a b", "a b c", "a", "") == pytest.approx([-0.6, 0.0, 0.0, 0.0])


def test_rewards_are_weighted_and_added() -> None:
    sources = parse({"rule": "json", "weight": 2.0}, {"rule": "length", "max": 1, "weight": -0.5, "name": "short"})
    rewards = RewardSources(sources, RewardContext("cpu")).score([[], []], ["1", "a b"], {})
    assert rewards.by_source == {"json": [1.0, 0.0], "short": [1.0, 0.0]}
    assert rewards.total == [1.5, 0.0]


# Functions


FUNCTIONS = """
def polite(prompts, answers, topic):
    assert prompts[0][0]["content"] == "?"
    return [float("please" in answer) + len(name) for answer, name in zip(answers, topic)]

def returns_none(prompts, answers): return [None for _ in answers]
def returns_truth(prompts, answers): return [True for _ in answers]
def returns_nan(prompts, answers): return [0.5, float("nan")]
def returns_one(prompts, answers): return 1.0
def returns_less(prompts, answers): return [1.0]
def fails(prompts, answers): raise KeyError("topic")
number = 3
"""


def function_sources(path: Path, name: str, *, takes: Sequence[str] = ()) -> RewardSources:
    function = f"{path}:{name}"
    context = RewardContext("cpu", frozenset({function}))
    return RewardSources(parse({"function": function, "takes": list(takes)}), context)


def test_a_function_gets_prompts_answers_and_columns(write: Write) -> None:
    sources = function_sources(write("scores.py", FUNCTIONS), "polite", takes=["topic"])
    prompts: Any = [[{"role": "user", "content": "?"}]] * 2
    assert sources.columns == ("topic",)
    assert sources.score(prompts, ["please", "no"], {"topic": ["ab", "c"]}).total == [3.0, 1.0]


def test_numbers_of_numpy_are_numbers(write: Write) -> None:
    text = "import numpy\ndef f(prompts, answers): return numpy.arange(len(answers), dtype=numpy.float32)\n"
    assert function_sources(write("scores.py", text), "f").score([[], []], ["", ""], {}).total == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("returns_none", "T671", "the reward of answer 1 of 2, whose row is rows.jsonl:1 is None"),
        ("returns_truth", "T671", "is True"),
        ("returns_nan", "T671", "the reward of answer 2 of 2, whose row is rows.jsonl:2 is nan"),
        ("returns_one", "T671", "it returned float"),
        ("returns_less", "T671", "1 values for 2 answers"),
        ("fails", "T670", "KeyError: 'topic'"),
    ],
)
def test_a_function_that_fails_or_returns_no_numbers(write: Write, name: str, code: str, why: str) -> None:
    sources = function_sources(write("scores.py", FUNCTIONS), name)
    with pytest.raises(RunError) as caught:
        sources.score([[], []], ["", ""], {}, where=["rows.jsonl:1", "rows.jsonl:2"])
    (finding,) = caught.value.findings
    assert finding.code == code
    assert f"`{name}`" in finding.what
    assert why in str(finding.why)
    assert finding.at == ("objective", "rewards", 0)


def test_a_function_must_be_allowed_on_the_command_line(write: Write) -> None:
    path = write("scores.py", FUNCTIONS)
    with pytest.raises(RecipeError) as caught:
        RewardSources(parse({"function": f"{path}:polite"}), RewardContext("cpu", frozenset({f"{path}:fails"})))
    (finding,) = caught.value.findings
    assert finding.code == "R386"
    assert f"--reward-function {path}:polite" in str(finding.fix)


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("import nosuch_library\n", "f", "nosuch_library"),
        (FUNCTIONS, "number", "is int, not a function"),
        (FUNCTIONS, "absent", "absent"),
    ],
)
def test_a_function_that_cannot_be_imported(write: Write, text: str, name: str, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        function_sources(write("scores.py", text), name)
    assert caught.value.findings[0].code == "R387"
    assert why in str(caught.value.findings[0].why)


# Checks against files


def findings(write: Write, *sources: str) -> list[Finding]:
    lines = "".join(f"    - {source}\n" for source in sources)
    composed = resolve_paths(compose(write("recipe.yaml", f"objective:\n  rewards:\n{lines}")))
    parsed = SOURCES.validate_python(composed.data["objective"]["rewards"])
    return list(check_reward_sources(parsed, ("objective", "rewards"), composed))


def make_run(write: Write, name: str, objective: str, *, finished: bool = True) -> None:
    recipe = f"schema: 1\nname: x\nmodel: {{path: a/b}}\ndata: {{train: [{{path: a/b}}]}}\nobjective: {objective}\n"
    write(f"{name}/resolved.yaml", recipe)
    if finished:
        write(f"{name}/result.json", "{}")


def test_sources_without_a_fault(write: Write) -> None:
    make_run(write, "run", "{kind: reward}")
    write("folder/config.json", '{"architectures": ["Qwen2ForSequenceClassification"]}')
    write("scores.py", FUNCTIONS)
    sources = [
        "{model: ./run}", "{model: folder}", "{model: owner/name}", "{function: scores.py:polite}",
        "{rule: regex, pattern: '\\d+'}", "{rule: exact, column: a, extract: '(x)'}", "{rule: length, max: 3}",
    ]  # fmt: skip
    assert findings(write, *sources) == []


@pytest.mark.parametrize(
    ("source", "code", "what"),
    [
        ("{model: ./absent}", "R384", "does not exist"),
        ("{model: 'not an id'}", "R384", "neither a path nor a hub id"),
        ("{model: ./empty}", "R384", "contains no reward model"),
        ("{model: ./adapter}", "R384", "an adapter without its base"),
        ("{model: ./unfinished}", "R384", "is unfinished"),
        ("{model: ./dpo}", "R385", "is not a reward model"),
        ("{model: ./decoder}", "R385", "is not a reward model"),
        ("{function: absent.py:f}", "R387", "does not exist"),
        ("{function: broken.py:f}", "R387", "cannot be read as Python"),
        ("{function: scores.py:f}", "R387", "defines no `f`"),
        ("{rule: regex, pattern: '(a'}", "R388", "regular expression is not valid"),
        ("{rule: exact, column: a, extract: '['}", "R388", "regular expression is not valid"),
        ("{rule: length}", "R388", "no answer can be too short or too long"),
        ("{rule: length, min: 3, max: 2}", "R388", "no length is right"),
    ],
)
def test_a_fault_is_found_before_anything_is_loaded(write: Write, source: str, code: str, what: str) -> None:
    write("empty/readme.txt", "")
    write("adapter/adapter_config.json", "{}")
    write("decoder/config.json", '{"architectures": ["Qwen2ForCausalLM"]}')
    write("broken.py", "def f(:\n")
    write("scores.py", FUNCTIONS)
    make_run(write, "dpo", "{kind: dpo}")
    make_run(write, "unfinished", "{kind: reward}", finished=False)
    (finding,) = findings(write, "{rule: json}", source)
    assert finding.code == code
    assert what in finding.what
    assert finding.where is not None
    assert finding.where.line == 4
