"""Tries to save before training, so that faults at the end of a run are found before its first step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from dpo_recipes.errors import DpoRecipeError, RunError, in_one_line, is_lack_of_machine
from dpo_recipes.export.beside import companions
from dpo_recipes.export.save import saved_kind
from dpo_recipes.hardware import machine
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory, written_to
from dpo_recipes.run_result import Environment, ModelInfo, RunResult


def rehearse_saving(recipe: Recipe, bundle: ModelBundle, run: RunDirectory) -> None:
    """Save everything except the weights into a temporary folder in the run directory, and remove the folder.

    Raises `RunError` M522 with the name of the part that cannot be saved, T601 (the run directory is not writable) and
    T602 (no space).
    """
    result = _stand_in(recipe, bundle)
    with written_to(run), tempfile.TemporaryDirectory(dir=run.path, prefix="rehearsal-") as name:
        folder = Path(name)
        parts = [("the configuration", lambda: _save_configuration(recipe, bundle, folder))]
        for part, save in [*parts, *companions(folder, bundle, recipe, result)]:
            _try(part, save, recipe)


def _save_configuration(recipe: Recipe, bundle: ModelBundle, folder: Path) -> None:
    """Save the adapter's configuration, or the model's configuration with its code."""
    policy = bundle.policy
    if saved_kind(recipe, bundle) == "adapter":
        (bundle.adapter_config or policy.peft_config["default"]).save_pretrained(folder)
        return
    base = policy.get_base_model() if hasattr(policy, "peft_config") else policy
    if getattr(base, "hf_quantizer", None) is None:
        base.save_pretrained(folder, state_dict={})
    else:  # a quantizer adds its own weights
        base.config.save_pretrained(folder)


def _try(part: str, save: Callable[[], object], recipe: Recipe) -> None:
    try:
        save()
    except (OSError, DpoRecipeError):
        raise
    except Exception as error:  # custom code of tokenizers and configurations can raise anything
        if is_lack_of_machine(error):
            raise
        raise RunError.of(
            "M522",
            f"{part} of the tuned model could not be saved",
            why=in_one_line(error),
            fix=f"correct the files of {recipe.model.path} in a local copy and use it as `model.path`; run.log has "
            "the whole message. Nothing was trained yet",
        ) from error


def _stand_in(recipe: Recipe, bundle: ModelBundle) -> RunResult:
    """A placeholder result, of which each metric has a value, so that the card has all of its sections."""
    metrics = {f"eval_{metric.key}": 0.0 for metric in objective_of(recipe).metrics}
    return RunResult(
        status="finished",
        recipe=recipe.name,
        saved=saved_kind(recipe, bundle),
        model=ModelInfo(**{"trainable_parameters": 0, **bundle.model_info}),
        steps=0,
        num_train_rows=0,
        num_eval_rows=1,
        metrics=metrics,
        base_metrics=metrics,
        environment=Environment(packages=machine.package_versions()),
    )
