"""Logging, evaluation, checkpoints and trackers."""

from __future__ import annotations

from typing import Any, get_args

from dpo_recipes.recipe.schema.tracking import TrackerName
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.values import flag, names, number, text

_KEPT = "checkpoints are for resuming here; the model is saved once, at the end of the run"


def map_logging(keys: Keys, default: int) -> None:
    """`training.logging_steps`; a share of the run becomes every tenth step unless its length is known."""
    draft, to = keys.draft, "training.logging_steps"
    steps = keys.get("logging_steps", number)
    strategy = keys.get("logging_strategy", text, "steps")
    if steps is None or strategy == "no":
        draft.default(to, default)
    elif steps >= 1:
        draft.put(to, round(steps), keys.key("logging_steps"))
    else:
        draft.put(to, _share(steps, draft) or default, keys.key("logging_steps"), note=f"{steps:g} of the run")
    keys.derive(["logging_strategy"], to)


def map_evaluation(keys: Keys, *, default_steps: int | None) -> None:
    """`training.eval_steps`. `default_steps` is what the tool assumes with the strategy `steps`."""
    draft, to = keys.draft, "training.eval_steps"
    name = "eval_strategy" if keys.has("eval_strategy") else "evaluation_strategy"
    strategy = keys.get(name, text, "no").removeprefix("IntervalStrategy.").lower()
    steps = keys.get("eval_steps", number)
    if not strategy.startswith("step") and strategy != "epoch":
        keys.derive([name, "do_eval"], to, note="no evaluation during training")
        keys.list("eval_steps", f"without `{name}: steps` the tool does not use it", differs=False)
        return
    if strategy == "epoch":
        draft.put(to, "epoch", keys.key(name))
        keys.list("eval_steps", f"with `{name}: epoch` the tool does not use it", differs=False)
    elif steps is None:
        draft.put(to, default_steps or draft.value("training.logging_steps", 10), keys.key(name))
    elif steps >= 1:
        draft.put(to, round(steps), keys.key("eval_steps"))
    else:
        put_share_of_run(keys, "eval_steps", steps)
    keys.derive([name, "do_eval"], to)


def put_share_of_run(keys: Keys, name: str, share: float, of: str = "") -> None:
    """`training.eval_steps` for evaluations after a share of the run. A recipe says steps or epochs."""
    draft, to = keys.draft, "training.eval_steps"
    steps = _share(share, draft)
    if steps is not None:
        draft.put(to, steps, keys.key(name), note=of or f"{share:g} of {draft.value('training.max_steps')} steps")
        return
    epochs = share * draft.value("training.num_epochs", 1.0)
    is_epoch = abs(epochs - 1.0) < 1e-6
    note = of or f"{share:g} of the run"
    draft.put(
        to,
        "epoch",
        keys.key(name),
        note=note if is_epoch else f"{note}: an evaluation here is after each epoch or a number of steps",
    )


def _share(share: float, draft: Draft) -> int | None:
    total = draft.value("training.max_steps")
    return max(1, round(share * total)) if total and share > 0 else None


def map_saving(keys: Keys, default_steps: int | None) -> None:
    """The section `checkpoints`."""
    draft = keys.draft
    strategy = keys.get("save_strategy", text, "steps").removeprefix("SaveStrategy.").lower()
    steps = keys.get("save_steps", number)
    if strategy == "steps" and steps is not None and steps >= 1:
        draft.put("checkpoints.save_steps", round(steps), keys.key("save_steps"))
    elif strategy == "steps" and steps is not None and _share(steps, draft):
        draft.put("checkpoints.save_steps", _share(steps, draft), keys.key("save_steps"), note=f"{steps:g} of the run")
    elif steps is not None:
        keys.list("save_steps", f"it is not used here: {_KEPT}", differs=False)
    elif strategy == "steps" and default_steps:
        draft.default("checkpoints.save_steps", default_steps)
    if strategy == "best":
        draft.put("checkpoints.keep_best", True, keys.key("save_strategy"))
    elif strategy == "steps" and draft.has("checkpoints.save_steps"):
        keys.derive(["save_strategy"], "checkpoints.save_steps")
    else:
        keys.list("save_strategy", _KEPT, differs=False)
    map_limit(keys)
    map_best(keys)


def map_limit(keys: Keys, default: int | None = None) -> None:
    """`checkpoints.save_total_limit`."""
    limit = keys.get("save_total_limit", number)
    if limit is not None and limit >= 1:
        keys.draft.put("checkpoints.save_total_limit", round(limit), keys.key("save_total_limit"))
    elif limit is not None:
        keys.list("save_total_limit", "at least one checkpoint is kept here", differs=False)
    elif default:
        keys.draft.default("checkpoints.save_total_limit", default)


def map_best(keys: Keys) -> None:
    """`checkpoints.keep_best`."""
    draft, to = keys.draft, "checkpoints.keep_best"
    if not keys.get("load_best_model_at_end", flag, False):
        keys.derive(["load_best_model_at_end"], to, note="the last model is kept")
        keys.list("metric_for_best_model", "the last model is kept, so no metric chooses one", differs=False)
        keys.list("greater_is_better", "the last model is kept, so no metric chooses one", differs=False)
        return
    metric = keys.get("metric_for_best_model", text, "loss").removeprefix("eval_")
    draft.put(to, True if metric == "loss" else metric, keys.key("load_best_model_at_end"))
    keys.derive(["metric_for_best_model"], to)
    keys.list("greater_is_better", "each metric has its own direction here", differs=False)


def map_trackers(keys: Keys, name: str = "report_to", default: tuple[str, ...] = ()) -> None:
    """`tracking.report_to`."""
    draft, to = keys.draft, "tracking.report_to"
    given = keys.get(name, names)
    if given is None:
        if default:
            draft.default(to, list(default))
        return
    known = [each for each in given if each in get_args(TrackerName)]
    others = [each for each in given if each not in known and each.lower() not in ("none", "all", "tqdm", "stdout")]
    note = f"there is no tracker {', '.join(others)} here" if others else ""
    if "all" in given:
        note = "`all` means those that are installed; name them in `tracking.report_to`"
    if known or not note:
        draft.put(to, known, keys.key(name), note=note)
    else:
        keys.list(name, note, differs=False)


def use_tracker(draft: Draft, tracker: str) -> None:
    """Add a tracker to `tracking.report_to`."""
    known: list[Any] = draft.value("tracking.report_to", [])
    if tracker not in known:
        keys = draft.values["tracking.report_to"].keys if draft.has("tracking.report_to") else ()
        draft.put("tracking.report_to", [*known, tracker], *keys)
