"""Made-up results of a sampling with their answers, for tests of pages."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from dpo_recipes.evaluate.result import SampleResult

TIE = "the best and the worst answer tie"
WORDS = ("Boil", "it", "for", "eight", "minutes", "then", "cool", "quickly", "and", "peel")


def make_samples(folder: Path, num_prompts: int = 40) -> tuple[SampleResult, Path]:
    """A result and the file of its answers: four answers to each prompt, of which the fifth prompt of five ties."""
    draw = random.Random(0)
    lines = [_line(number, draw) for number in range(num_prompts)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    kept = [line for line in lines if line["left_out"] is None]
    every = [answer for line in lines for answer in line["answers"]]
    best, worst = ([next(one for one in line["answers"] if one["rank"] == rank) for line in kept] for rank in (1, 3))
    result = SampleResult.model_validate(
        {
            "schema": 1,
            "kind": "samples",
            "data": "prompts.jsonl",
            "split": "all",
            "num_prompts": num_prompts,
            "num_rows": len(kept),
            "num_answers": len(every),
            "left_out": {TIE: num_prompts - len(kept)},
            "models": [
                {
                    "name": "smollm2",
                    "reference": "runs/smollm2/20260105T000000Z-abcdef",
                    "rewards": {"judge": _estimate([one["rewards"]["judge"] for one in every])},
                    "tokens": _estimate([one["tokens"] for one in every]),
                    "cut_off": 0.25,
                }
            ],
            "generation": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 64, "seed": 1000003},
            "best": _ranked(best),
            "worst": _ranked(worst),
            "packages": {"torch": "2.13.0"},
        }
    )
    return result, path


def _line(number: int, draw: random.Random) -> dict[str, Any]:
    ties = number % 5 == 4
    answers = []
    for rank in (1, 2, 3, None):
        length = {1: 4, 2: 7, 3: 10, None: 12}[rank] + draw.randrange(4)
        text = " ".join(draw.choice(WORDS) for _ in range(length)) + "."
        reward = 0.5 if ties else 1.5 - length / 5 + draw.gauss(0, 0.2)
        flaw = "cut off" if rank is None else None
        answers.append(
            {
                "model": "smollm2",
                "text": text,
                "tokens": length,
                "rewards": {"judge": reward},
                "rank": rank,
                "flaw": flaw,
            }
        )
    prompt = [{"role": "user", "content": f"How do I boil {number + 1} eggs?"}]
    return {
        "prompt": prompt,
        "where": f"prompts.jsonl:{number + 1}",
        "left_out": TIE if ties else None,
        "answers": answers,
    }


def _ranked(answers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rewards": {"judge": _estimate([one["rewards"]["judge"] for one in answers])},
        "tokens": _estimate([one["tokens"] for one in answers]),
        "longer": {"value": 0.95, "low": 0.82, "high": 0.99, "count": len(answers)}
        if answers[0]["rank"] == 3
        else {"value": 0.05, "low": 0.01, "high": 0.18, "count": len(answers)},
    }


def _estimate(values: list[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    return {"value": mean, "low": mean - 0.1, "high": mean + 0.1, "count": len(values)}
