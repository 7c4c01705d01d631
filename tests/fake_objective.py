"""An objective that trains like DPO and has other metrics, for tests of the rooms that show metrics."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from dpo_recipes import registry
from dpo_recipes.objectives.dpo import Dpo, DpoParams
from dpo_recipes.objectives.metric import LOSS, Metric


class FakeParams(DpoParams):
    kind: Literal["fake"] = Field(description="The objective.")  # type: ignore[assignment]


class Fake(Dpo):
    """Its best metric is better when it is lower, and one of its metrics is never logged."""

    kind = "fake"
    params = FakeParams
    best_metric = "rewards/rejected"
    metrics = (
        LOSS,
        Metric(
            "rewards/rejected",
            "Penalty",
            2,
            is_signed=True,
            higher_is_better=False,
            is_shown_live=True,
            short_label="pen",
            description="The lower, the less is rejected.",
        ),
        Metric("rewards/accuracies", "Hit rate", 2, is_share=True, higher_is_better=True),
        Metric("absent", "Never logged", higher_is_better=True, is_shown_live=True, base_value=0.0),
    )
    metrics_note = "A penalty is a reward that is not wanted."

    def title(self, params: DpoParams) -> str:
        return "Fake objective"


OBJECTIVE = Fake()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `kind: fake` known."""
    monkeypatch.setitem(registry.OBJECTIVES, "fake", "fake_objective:OBJECTIVE")
