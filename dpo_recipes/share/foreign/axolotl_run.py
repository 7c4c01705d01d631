"""Axolotl's evaluations, checkpoints and trackers."""

from __future__ import annotations

from dpo_recipes.share.foreign.draft import Keys
from dpo_recipes.share.foreign.progress import map_best, map_limit, put_share_of_run, use_tracker
from dpo_recipes.share.foreign.values import flag, number, text

_TRACKERS = {
    "wandb": ("wandb_project", "wandb_name", "use_wandb"),
    "mlflow": ("mlflow_experiment_name", "mlflow_run_name", "use_mlflow"),
    "comet_ml": ("comet_project_name", "", "use_comet"),
    "trackio": ("trackio_project_name", "trackio_run_name", "use_trackio"),
    "swanlab": ("swanlab_project", "swanlab_experiment_name", "use_swanlab"),
    "tensorboard": ("", "", "use_tensorboard"),
}
"""The keys of the project, the run's name and the switch of each tracker."""
_KEPT = "checkpoints are for resuming here; the model is saved once, at the end of the run"


def map_run(keys: Keys) -> None:
    """The sections `checkpoints` and `tracking`, and what else happens during training."""
    _map_logging(keys)
    _map_evaluations(keys)
    _map_checkpoints(keys)
    _map_trackers(keys)
    keys.map("early_stopping_patience", "training.early_stopping.patience")


def _map_logging(keys: Keys) -> None:
    draft, steps = keys.draft, keys.get("logging_steps", number)
    if steps is not None and steps >= 1:
        draft.put("training.logging_steps", round(steps), keys.key("logging_steps"))
    else:
        draft.default("training.logging_steps", 10, "0.5 % of the steps, at most 10")


def _map_evaluations(keys: Keys) -> None:
    draft, to = keys.draft, "training.eval_steps"
    has_rows = any(name.startswith("data.eval") for name in draft.values)
    strategy = "eval_strategy" if keys.has("eval_strategy") else "evaluation_strategy"
    per_epoch, steps = keys.get("evals_per_epoch", number), keys.get("eval_steps", number)
    given = ["evals_per_epoch", "eval_steps", strategy]
    if not has_rows:
        keys.derive(given, to, note="nothing is held out, so nothing is evaluated")
        return
    epochs = draft.value("training.num_epochs", 1.0)
    if per_epoch is not None and per_epoch > 0:
        put_share_of_run(keys, "evals_per_epoch", 1 / (per_epoch * epochs), f"evals_per_epoch: {per_epoch:g}")
    elif steps is not None and steps >= 1:
        draft.put(to, round(steps), keys.key("eval_steps"))
    elif steps is not None and steps > 0:
        put_share_of_run(keys, "eval_steps", steps)
    elif keys.get(strategy, text, "no") == "epoch":
        draft.put(to, "epoch", keys.key(strategy))
    keys.derive(given, to)


def _map_checkpoints(keys: Keys) -> None:
    draft = keys.draft
    steps, per_epoch = keys.get("save_steps", number), keys.get("saves_per_epoch", number)
    total, epochs = draft.value("training.max_steps"), draft.value("training.num_epochs", 1.0)
    share = 1 / (per_epoch * epochs) if per_epoch and per_epoch > 0 and epochs else steps
    name = "saves_per_epoch" if per_epoch else "save_steps"
    if share and share >= 1 and not per_epoch:
        draft.put("checkpoints.save_steps", round(share), keys.key(name))
    elif share and 0 < share < 1 and total:
        draft.put("checkpoints.save_steps", max(1, round(share * total)), keys.key(name))
    for each in ("save_steps", "saves_per_epoch", "save_strategy"):
        if each in keys.data and (*keys.at, each) not in draft.outcomes:
            keys.list(each, _KEPT, differs=False)
    map_limit(keys, 4)
    map_best(keys)


def _map_trackers(keys: Keys) -> None:
    draft = keys.draft
    for tracker, (project, run, switch) in _TRACKERS.items():
        is_on = keys.get(switch, flag) if switch else None
        has_project = bool(project) and keys.has(project)
        if is_on is False or (is_on is None and not (has_project and tracker in ("wandb", "mlflow", "comet_ml"))):
            if has_project or (run and keys.has(run)):
                keys.derive([name for name in (project, run) if name], "tracking", note="its tracker is off")
            keys.derive([switch] if is_on is False else [], "tracking.report_to")
            continue
        use_tracker(draft, tracker)
        keys.derive([name for name in (switch, project) if name and keys.has(name)], "tracking.report_to")
        for name, to in ((project, "tracking.project"), (run, "tracking.run_name")):
            if name and keys.has(name) and not draft.has(to):
                keys.map(name, to)
