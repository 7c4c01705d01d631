"""Opens a finished run: its recipe and result, and the model that it saved, without a trainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dpo_recipes.errors import DpoRecipeError, RunError
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Objective
from dpo_recipes.recipe.dump import read_resolved
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.model import Dtype
from dpo_recipes.resume import is_running
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, read_json_lines
from dpo_recipes.run_result import RunResult, describe_invalid, read_result

if TYPE_CHECKING:
    from dpo_recipes.data.chat_template import Chat
    from dpo_recipes.model.sources import ModelLocation


@dataclass(frozen=True)
class LoadedModel:
    """The model of a finished run, ready to answer."""

    policy: Any
    """In evaluation mode, with the generation configuration that was saved."""
    tokenizer: Any
    """The saved one, whose end-of-sequence token is the one that ends a turn."""
    chat: Chat
    """The chat template of the training, and the tokens that end an answer."""
    device: str
    dtype: str


@dataclass(frozen=True)
class SavedChat:
    """What a finished run has saved beside the weights of its model."""

    tokenizer: Any
    """The saved one, whose end-of-sequence token is the one that ends a turn."""
    chat: Chat
    """The chat template of the training, and the tokens that end an answer."""
    base: ModelLocation
    """Where the base of a saved adapter is, or the saved model itself if it is whole."""
    config: Any
    """transformers' configuration of `base`."""
    generation: Any | None
    """The saved generation configuration; None for a model that scores."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has finished. Nothing heavy is loaded before `load`."""

    run: RunDirectory
    recipe: Recipe
    """The resolved recipe."""
    result: RunResult

    @property
    def objective(self) -> Objective:
        """The objective of the recipe."""
        return objective_of(self.recipe)

    @property
    def model_dir(self) -> Path:
        """The folder of the saved model, also if the run directory was moved."""
        return self.run.path / MODEL_FOLDER

    def metric_rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return read_json_lines(self.run.metrics)

    def load_chat(self, *, trust_remote_code: bool = False) -> SavedChat:
        """The saved tokenizer with the chat template of the training; no weights are read. Raises `RunError` M504."""
        from transformers import GenerationConfig

        from dpo_recipes.data.chat_template import chat_of_saved
        from dpo_recipes.model.build import load_config
        from dpo_recipes.model.heads import is_encoder
        from dpo_recipes.model.loading import loading_errors
        from dpo_recipes.model.sources import ModelLocation, resolve_model
        from dpo_recipes.model.tokenizer import load_tokenizer

        recipe, trust = self.recipe, trust_remote_code and self.recipe.model.trust_remote_code
        assert self.result.saved is not None, "a finished run has saved its model"
        saved = ModelLocation(str(self.model_dir))
        base = resolve_model(recipe.model) if self.result.saved == "adapter" else saved
        config = load_config(base, trust_remote_code=trust)
        tokenizer = load_tokenizer(saved, trust_remote_code=trust, is_encoder=is_encoder(config))
        generation, ends = None, tokenizer.eos_token_id  # that of a turn
        if self.objective.head == "causal_lm":
            with loading_errors("the saved model", saved):
                generation = GenerationConfig.from_pretrained(self.model_dir)
            ends = generation.eos_token_id
        name, variables = self.result.data.chat_template or "tokenizer", recipe.chat_template_kwargs
        chat = chat_of_saved(tokenizer, name, variables, ends)
        return SavedChat(tokenizer, chat, base, config, generation)

    def load(
        self, *, device: str | None = None, dtype: Dtype | None = None, trust_remote_code: bool = False
    ) -> LoadedModel:
        """The saved model with its tokenizer and chat template, on the recipe's device or on another one (`auto`,
        `cpu`, `cuda`, `mps`), in the recipe's precision or in another one.

        Remote code runs only if both the recipe and `trust_remote_code` allow it. Raises `RunError` T644 (the model was
        removed), M504 (it cannot be loaded), M507 and M508 (device and precision).
        """
        if not self.model_dir.is_dir():
            raise _model_removed(self.run)
        from functools import partial

        from dpo_recipes.model.build import load_base
        from dpo_recipes.model.loading import loading_errors
        from dpo_recipes.model.precision import choose_attention, choose_device, choose_dtype
        from dpo_recipes.model.saved import load_saved
        from dpo_recipes.model.sources import ModelLocation

        recipe, folder, kind = self.recipe, self.model_dir, self.result.saved
        assert kind is not None, "a finished run has saved its model"
        trust = trust_remote_code and recipe.model.trust_remote_code
        saved = self.load_chat(trust_remote_code=trust_remote_code)
        device = choose_device(device or recipe.hardware.device)
        if dtype is not None:
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})
        chosen = choose_dtype(recipe, device, getattr(saved.config, "model_type", None))
        with loading_errors("the saved model", ModelLocation(str(folder))):
            policy = load_saved(
                folder,
                kind,
                partial(load_base, recipe, saved.base, saved.tokenizer, device, chosen, trust_remote_code=trust),
                device=device,
                dtype=chosen,
                attention=choose_attention(recipe.model.attn_implementation, device, chosen),
                trust_remote_code=trust,
            )
        if saved.generation is not None:
            policy.generation_config = saved.generation
        return LoadedModel(policy.eval(), saved.tokenizer, saved.chat, device, chosen)


def open_run(path: Path) -> FinishedRun:
    """Open a run directory; one that belongs to another of several nodes leads to the shared one.

    Raises `RunError` T640 if it is not a run directory, T641 if the run is unfinished, and T642 if its result or
    its recipe cannot be read.
    """
    run = RunDirectory(path.expanduser().resolve()).shared_run
    if not run.resolved_recipe.is_file():
        raise not_a_run(path)
    if not run.result.is_file():
        raise _not_finished(run)
    result = read_result(run.result)
    try:
        recipe = read_resolved(run.resolved_recipe)
    except DpoRecipeError as error:
        raise _unreadable_recipe(run, error.findings[0].what) from error
    except ValidationError as error:
        raise _unreadable_recipe(run, describe_invalid(error)) from error
    return FinishedRun(run, recipe, result)


def _unreadable_recipe(run: RunDirectory, why: str) -> RunError:
    return RunError.of(
        "T642",
        f"the recipe of the run in {run.path} cannot be read",
        why=why,
        fix="restore resolved.yaml as the run wrote it, or use the version of dpo-recipe that wrote it; if its "
        "objective or a guard is that of another package, install that package",
    )


def _model_removed(run: RunDirectory) -> RunError:
    return RunError.of(
        "T644",
        f"the run in {run.path} has no model any more",
        why="its folder `model` was removed; a sweep with `keep: best` does so with all runs but the best one",
        fix=f"train it again: `dpo-recipe run {run.resolved_recipe}`",
    )


def not_a_run(path: Path, output_dir: Path | None = None) -> RunError:
    """The error T640 for a path that is not the directory of a run. `output_dir` is where its name was looked up."""
    found = sorted(path.glob("*/resolved.yaml"), reverse=True) or sorted(path.glob("*/*/resolved.yaml"), reverse=True)
    above = [parent for parent in path.resolve().parents[:2] if RunDirectory(parent).resolved_recipe.is_file()]
    near = [*above, *(file.parent for file in found)]
    if path.is_dir():
        why = "it has no resolved.yaml; a run directory has resolved.yaml, metrics.jsonl and, if finished, result.json"
    elif output_dir is None:
        why = "there is no such directory"
    else:
        why = f"there is no such directory, and no run of that name below {output_dir}"
    return RunError.of(
        "T640",
        f"{path} is not the directory of a run",
        why=why,
        fix=f"did you mean {near[0]}?"
        if near
        else "give a directory that `dpo-recipe run` made: `runs/<recipe name>/<time>-<id>` below its `output_dir`",
    )


def _not_finished(run: RunDirectory) -> RunError:
    if is_running(run):
        why, fix = "it is still being executed", "wait until it has finished"
    else:
        why, fix = "it has no result.json", "run the recipe again: it resumes from the last checkpoint"
    return RunError.of("T641", f"the run in {run.path} is unfinished", why=why, fix=fix)
