"""Token ids equal those of TRL's own dataset preparation; lengths are kept as asked."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer

from dpo_recipes.data.formats.hh_rlhf import FORMAT
from dpo_recipes.data.rows import BadRow, PreferenceRow, SourceRow, SplitReport
from dpo_recipes.data.tokenize import tokenize_rows
from dpo_recipes.shipped import template_paths

HH = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_rlhf_harmless_base.jsonl.gz"


def _trl_ids(rows: list[PreferenceRow], tokenizer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    """What DPOTrainer._prepare_dataset of TRL 1.16 makes of conversational rows."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    class Arguments:
        dataset_num_proc, max_length, truncation_mode = None, None, "keep_start"

    dataset = Dataset.from_list([{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in rows])
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    made = trainer._prepare_dataset(dataset, tokenizer, Arguments(), "train")  # type: ignore[arg-type]
    return list(zip(made["prompt_ids"], made["chosen_ids"], made["rejected_ids"], strict=True))


def _rows(count: int) -> list[PreferenceRow]:
    text = "What is the capital of Peru and how long do I boil 12 eggs in 2024? äöü\n\n  x"
    words = re.split(" ", text)
    return [
        PreferenceRow(
            [{"role": "user", "content": " ".join(words[i % 5 : i % 5 + 8])}],
            [{"role": "assistant", "content": f"Lima {i}."}],
            [{"role": "assistant", "content": f"Many {i} things, \n it depends."}],
            f"row {i}",
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("template", ["chatml", "plain", "hh"])
def test_ids_are_trls(template: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template_paths()[template].read_text(encoding="utf-8").rstrip("\n")
    rows = _rows(30)
    pairs, _ = tokenize_rows(rows, tokenizer, max_length=4096, overlong="error", report=SplitReport())
    assert [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs] == _trl_ids(rows, tokenizer)


@pytest.mark.skipif(not HH.exists(), reason="the hh-rlhf file is not part of the project")
def test_ids_are_trls_on_real_dialogues() -> None:
    tokenizer, rows = make_tokenizer(), []
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        for number, line in enumerate(islice(file, 300)):
            with contextlib.suppress(BadRow):
                rows.append(FORMAT.to_row(SourceRow(json.loads(line), str(number))))
    assert len(rows) > 290
    pairs, _ = tokenize_rows(rows, tokenizer, max_length=10**6, overlong="error", report=SplitReport())
    assert [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs] == _trl_ids(rows, tokenizer)


def test_an_answer_ends_with_its_end_of_turn() -> None:
    tokenizer = make_tokenizer()
    pairs, _ = tokenize_rows(_rows(1), tokenizer, max_length=512, overlong="drop", report=SplitReport())
    assert tokenizer.eos_token_id in pairs[0].chosen_ids
    assert tokenizer.decode(pairs[0].prompt_ids).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("overlong", "kept"), [("drop", False), ("truncate_prompt_start", True), ("truncate_completion_end", True)]
)
def test_overlong_pairs(overlong: Any, kept: bool) -> None:
    tokenizer, report = make_tokenizer(), SplitReport()
    whole = tokenize_rows(_rows(1), tokenizer, max_length=512, overlong="drop", report=SplitReport())[0][0]
    rows = [*_rows(1), PreferenceRow([{"role": "user", "content": "x"}], *_answers(), "short")]
    pairs, _ = tokenize_rows(rows, tokenizer, max_length=whole.length - 3, overlong=overlong, report=report)
    assert len(pairs) == 1 + kept
    assert all(pair.length <= whole.length - 3 for pair in pairs)
    if overlong == "truncate_prompt_start":
        assert pairs[0].prompt_ids == whole.prompt_ids[3:]
        assert pairs[0].rejected_ids == whole.rejected_ids
    elif overlong == "truncate_completion_end":
        assert pairs[0].prompt_ids == whole.prompt_ids
        assert pairs[0].rejected_ids == whole.rejected_ids[:-3]
        assert pairs[0].chosen_ids == whole.chosen_ids
    else:
        assert report.dropped == {"overlong": 1}


def _answers() -> tuple[list[Any], list[Any]]:
    return [{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]
