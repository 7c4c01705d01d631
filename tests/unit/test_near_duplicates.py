"""Near duplicates: what is alike, what is not, and that nothing depends on chance."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dpo_recipes.data.near_duplicates import MIN_RECALL, _bands, first_near_duplicate
from dpo_recipes.errors import DataError

WORDS = " ".join(f"word{number}" for number in range(100))
needs_datasketch = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('datasketch')")


def _changed(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] += "x"
    return " ".join(words)


@needs_datasketch
def test_a_text_with_one_changed_word_repeats_the_first() -> None:
    """100 words have 98 3-grams; one changed word in the middle changes 3 of them: similarity 95 / 101 = 0.94."""
    texts = [WORDS, "something else entirely", _changed(WORDS, 50)]
    assert list(first_near_duplicate(texts, 0.8)) == [None, None, 0]
    assert list(first_near_duplicate(texts, 0.94)) == [None, None, 0]
    assert list(first_near_duplicate(texts, 0.95)) == [None, None, None]


@needs_datasketch
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("text", ["", "Hi", "two words", "  Three   WORDS here ", "今天天气很好", WORDS])
def test_the_same_text_is_found_at_any_length_and_threshold(text: str, threshold: float) -> None:
    assert list(first_near_duplicate([text, text.lower() + " "], threshold)) == [None, 0]


@needs_datasketch
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "What is 2 - 2?"),  # signs count
        ("yes", "no"),
        ("", "Hi"),
        ("今天天气很好", "明天会下雨吗"),
        ("the cat sees the dog", "the dog sees the cat"),  # so does the order
    ],
)
def test_texts_that_say_different_things_are_kept(one: str, other: str) -> None:
    assert list(first_near_duplicate([one, other], 0.8)) == [None, None]


@needs_datasketch
def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "机器学习是人工智能的一个分支它使计算机能够从数据中学习并做出预测"
    assert list(first_near_duplicate([text, text[:-1] + "断"], 0.8)) == [None, 0]


@needs_datasketch
def test_the_first_of_several_is_named_and_repeats_are_not_compared_with() -> None:
    """The third is like the second, which went because of the first; the third itself is unlike the first."""
    second = _changed(WORDS, 20, 40)  # 6 of 98 3-grams changed: 92 / 104 = 0.88
    third = _changed(second, 60, 80)  # against the first 86 / 110 = 0.78
    assert list(first_near_duplicate([WORDS, second, third], 0.85)) == [None, 0, None]
    assert list(first_near_duplicate([second, third, WORDS, WORDS], 0.75)) == [None, 0, 0, 0]


@needs_datasketch
def test_texts_are_read_one_at_a_time() -> None:
    asked = []

    def texts() -> Iterator[str]:
        for number in range(3):
            asked.append(number)
            yield f"text number {number} {WORDS}"

    found = first_near_duplicate(texts(), 0.5)
    assert asked == []
    assert next(found) is None
    assert asked == [0]
    assert list(found) == [0, 0]


@needs_datasketch
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_few_pairs_are_missed_and_none_is_made_up(threshold: float) -> None:
    """Against comparing each with each. 200 pairs over the threshold lose 2 by design; 10 would be a defect."""
    draw = random.Random(3)
    num_missed = num_alike = 0
    for _ in range(300):
        words = [f"w{draw.randrange(5000)}" for _ in range(60)]
        one = " ".join(words)
        other = _changed(one, *draw.sample(range(60), draw.randint(0, 6)))
        grams = [{tuple(text.split()[at : at + 3]) for at in range(58)} for text in (one, other)]
        alike = len(grams[0] & grams[1]) / len(grams[0] | grams[1]) >= threshold
        found = list(first_near_duplicate([one, other], threshold))[1] == 0
        assert alike or not found
        num_alike += alike
        num_missed += alike and not found
    assert num_alike > 30
    assert num_missed < 10


@needs_datasketch
def test_results_are_the_same_in_another_process() -> None:
    """Python's own hashes of texts differ from process to process; ours must not."""
    script = """
import random
from dpo_recipes.data.near_duplicates import first_near_duplicate
draw = random.Random(5)
texts = [" ".join(f"w{draw.randrange(4)}" for _ in range(12)) for _ in range(200)]
print(list(first_near_duplicate(texts, 0.3)))
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert 10 < outputs[0].count("None") < 190


@pytest.mark.parametrize("num_perm", [64, 128])
@pytest.mark.parametrize("percent", range(8, 101))
def test_bands_find_the_pairs_at_the_threshold(percent: int, num_perm: int) -> None:
    bands, rows = _bands(percent / 100, num_perm)
    assert bands >= 2
    assert bands * rows <= num_perm
    assert 1 - (1 - (percent / 100) ** rows) ** bands >= MIN_RECALL


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(DataError) as caught:
        first_near_duplicate([], 0.8)
    assert caught.value.findings[0].code == "D411"
    assert "pip install 'dpo-recipe[dedup]'" in (caught.value.findings[0].fix or "")


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_a_threshold_that_means_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="greater than 0 and at most 1"):
        first_near_duplicate([], threshold)
