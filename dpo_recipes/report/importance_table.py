"""The table of what each setting contributes to the differences between the runs that are compared."""

from __future__ import annotations

from dpo_recipes.formats import format_percent
from dpo_recipes.importance import ABSENT, Importances, rank_settings
from dpo_recipes.report.comparison import Comparison
from dpo_recipes.report.settings_plots import MAX_SETTINGS
from dpo_recipes.report.table import Table

_EXPLANATION = (
    "The share is the part of the variance of the metric between runs that only this setting explains (analysis of "
    "variance with main effects), over the values that were tried. The mark on a bar is what chance alone reaches for "
    "some setting in one of 20 such comparisons: a setting is shown to matter if its bar is longer. A bar that is "
    "shorter does not show that a setting is without effect."
)


def tabulate_importances(comparison: Comparison) -> Table | None:
    """A row for each setting; None if there are too many settings or too few runs to judge them."""
    metric, settings = comparison.metric, comparison.settings
    measured = [configuration for configuration in comparison.configurations if configuration.value is not None]
    if metric is None or not 0 < len(settings) <= MAX_SETTINGS:
        return None
    found = rank_settings(
        {path: [configuration.settings.get(path, ABSENT) for configuration in measured] for path in settings},
        [[run.value for run in configuration.runs if run.value is not None] for configuration in measured],
    )
    if found is None:
        return None
    rows = [
        [
            " with ".join(importance.settings),
            format_percent(importance.share, 0),
            format_percent(importance.chance_share, 0),
            "shown to matter" if importance.is_shown else "not shown to matter",
        ]
        for importance in found.settings
    ]
    return Table(
        f"What the differences in {metric.label.lower()} go back to",
        ["Setting", "Share of the variance", "Chance reaches", "Beyond chance"],
        rows,
        note=f"{describe_importances(found)} {_EXPLANATION} {_describe_rest(found)}",
        words=(3,),
        bars=[(importance.share, importance.chance_share) for importance in found.settings],
    )


def describe_importances(found: Importances) -> str:
    """One sentence: which settings are shown to matter."""
    if not found.shown:
        return "No setting is shown to matter: chance alone reaches shares like these."
    names = [f"{' with '.join(each.settings)} ({format_percent(each.share, 0)})" for each in found.shown]
    return f"Shown to matter: {', '.join(names)}."


def _describe_rest(found: Importances) -> str:
    text = f"The other {format_percent(found.rest, 0)} go back to combinations of settings, to what several settings "
    if found.seed_share is None:
        return f"{text}explain equally well, and to chance; repeated runs with other seeds would tell these apart."
    return f"{text}explain equally well, and to chance: other seeds alone cause {format_percent(found.seed_share, 0)}."
