"""Finds the models of an evaluation: finished runs, their bases, folders, `.gguf` files, and models of the hub.

Only tokenizers and configurations are loaded here. The weights of one model at a time are loaded later, and only if a
value of it is not in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dpo_recipes.cache import content_key
from dpo_recipes.data.chat_template import Chat, apply_template
from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.subject import Subject, with_other_base, with_unique_names
from dpo_recipes.evaluate.weights import identify, load_adapter, load_location, load_run, load_run_base
from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.hardware.rules import best_dtype
from dpo_recipes.model.build import load_config
from dpo_recipes.model.heads import is_classifier, is_encoder
from dpo_recipes.model.precision import choose_attention, choose_device, choose_dtype, describe_device
from dpo_recipes.model.sources import ModelLocation, resolve_model
from dpo_recipes.model.tokenizer import load_tokenizer
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.evaluate import BASE
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, step_of


class ModelFinder:
    """Opens models by their names."""

    def __init__(self, device: str, chat_template: str | None, *, trust_remote_code: bool) -> None:
        """`chat_template` is that of models that are not runs; None for the one of their tokenizers. Raises `RunError`
        M507 if the device is not available."""
        self._template = chat_template
        self._trust = trust_remote_code
        self._device = choose_device(device)

    def find_all(self, models: Sequence[str], against: str | None = None) -> list[Subject]:
        """The models in their order, and after them the one to compare with if it is not among them.

        Raises `RunError` T640 to T642, T681 (no such model), T682 (a reward model), M504 to M510.
        """
        named = [name for name in models if name != BASE]
        found = {name: self._find(name) for name in named}
        wanted = [*models, *([against] if against else [])]
        for name in wanted:
            if name == BASE:
                found[BASE] = self._base_of_first(found.values())
            elif name not in found:
                found[name] = self._find(name)
        subjects = [replace(found[name], named=name) for name in dict.fromkeys(wanted)]
        subjects = with_other_base(subjects, against)
        return with_unique_names(subjects)

    def _base_of_first(self, found: Iterable[Subject]) -> Subject:
        for subject in found:
            if subject.base is not None:
                return replace(subject.base, name=BASE)
        raise no_base()

    def _find(self, name: str) -> Subject:
        if name.startswith("pypi:"):
            raise RunError.of(
                "T681",
                f"{name} cannot be evaluated by this name",
                why="it is a model inside a wheel, whose checksum is in the recipe of a run",
                fix="name a run that was trained on it, with `base` for the model itself, or the path of a .gguf file",
            )
        path = Path(name).expanduser()
        for folder in (path, path.parent) if path.name == MODEL_FOLDER else (path,):
            if RunDirectory(folder).resolved_recipe.is_file():
                return self._from_run(name, open_run(folder))
        if path.suffix == ".gguf" and path.is_file():
            return self._from_location(name, ModelLocation(str(path.resolve().parent), gguf_file=path.name))
        if path.is_dir():
            return self._from_folder(name, path.resolve())
        if path.is_absolute() or path.exists():
            raise RunError.of(
                "T681",
                f"there is no model {name}",
                why="it is neither the directory of a run, nor the folder of a model, nor a .gguf file"
                if path.exists()
                else "there is no such folder",
                fix="name a run (`dpo-recipe runs` lists them), the folder of a model, or a hub id",
            )
        return self._from_location(name, ModelLocation(name))

    def _from_run(self, name: str, run: FinishedRun) -> Subject:
        if run.objective.head != "causal_lm":
            raise _is_reward_model(name)
        recipe = run.recipe
        saved = run.load_chat(trust_remote_code=self._trust)
        dtype = choose_dtype(recipe, self._device, getattr(saved.config, "model_type", None))
        location = resolve_model(recipe.model)
        trust = self._trust and recipe.model.trust_remote_code
        known = identify(location)
        settings = recipe.model.model_dump(mode="json", include={"quantization", "attn_implementation"})
        # New tokens get sampled embeddings.
        of_base = None if known is None else [known, settings, len(saved.tokenizer), recipe.training.seed]
        base = Subject(
            f"base of {run.recipe.name}",
            recipe.model.path,
            self._key(dtype, of_base),
            saved.tokenizer,
            saved.chat,
            _context_length(saved.config),
            self._device,
            dtype,
            partial(load_run_base, run, location, saved.tokenizer, self._device, dtype, trust_remote_code=trust),
        )
        files = identify(ModelLocation(str(run.model_dir)))
        return replace(
            base,
            name=_run_name(run),
            reference=str(run.run.path),
            key=self._key(dtype, files, of_base if run.result.saved == "adapter" else []),
            load=partial(load_run, run, self._device, trust_remote_code=self._trust),
            base=base,
            beta=implicit_beta(recipe),
            run=run,
        )

    def _from_folder(self, name: str, folder: Path) -> Subject:
        adapter = folder / "adapter_config.json"
        if not adapter.is_file():
            return self._from_location(name, ModelLocation(str(folder)))
        try:
            path = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError.of(
                "T681",
                f"{folder} has an adapter without a base",
                why=f"adapter_config.json does not name it: {error!r}",
                fix="write `base_model_name_or_path` into that file, or evaluate the run that saved the adapter",
            ) from error
        base = self._from_location(path, ModelLocation(path), tokenizer_at=ModelLocation(str(folder)))
        key = self._key(base.dtype, identify(ModelLocation(str(folder))), base.key)
        load = partial(load_adapter, base.load, folder)
        return replace(base, name=folder.name, reference=name, key=key, load=load, base=base)

    def _from_location(self, name: str, location: ModelLocation, tokenizer_at: ModelLocation | None = None) -> Subject:
        config = load_config(location, trust_remote_code=self._trust)
        if is_classifier(config) or is_encoder(config):
            raise _is_reward_model(name)
        tokenizer = self._tokenizer(tokenizer_at, location)
        chat = self._chat(name, tokenizer, tokenizer_at or location)
        dtype = best_dtype(describe_device(self._device), model_type=getattr(config, "model_type", None))
        attention = choose_attention("auto", self._device, dtype)
        how = {"device": self._device, "dtype": dtype, "attention": attention, "trust_remote_code": self._trust}
        return Subject(
            Path(name).stem if Path(location.path).is_absolute() else name,
            name,
            self._key(dtype, identify(location)),
            tokenizer,
            chat,
            _context_length(config),
            self._device,
            dtype,
            partial(load_location, location, config, **how),
        )

    def _tokenizer(self, own: ModelLocation | None, base: ModelLocation) -> Any:
        """The tokenizer beside an adapter, if there is one, else that of the base."""
        has_own = own is not None and (Path(own.path) / "tokenizer_config.json").is_file()
        return load_tokenizer(own if own is not None and has_own else base, trust_remote_code=self._trust)

    def _chat(self, name: str, tokenizer: Any, location: ModelLocation) -> Chat:
        """The chat template of a model that is no run. Answers also end at the tokens that its generation configuration
        names."""
        from transformers import GenerationConfig

        try:
            chat = apply_template(tokenizer, self._template or "tokenizer", False)
        except RunError as error:
            if error.findings[0].code != "M505":
                raise
            raise RunError.of(
                "M505",
                f"the tokenizer of {name} has no chat template",
                why="it says how a prompt is written for the model, and base models usually have none",
                fix="choose the one that the model was trained with: `--chat-template chatml`, for example "
                "(docs/templates.md lists the names)",
            ) from error
        try:
            generation = GenerationConfig.from_pretrained(location.path, revision=location.revision or "main")
        except OSError:  # the model has none
            return chat
        ends = generation.eos_token_id
        return replace(chat, end_ids=chat.end_ids | set([ends] if isinstance(ends, int) else ends or []))

    def _key(self, dtype: str, *parts: Any) -> str | None:
        """The key of weights that the parts identify; None if one of them is None."""
        if None in parts:
            return None
        import torch
        import transformers

        versions = [torch.__version__, transformers.__version__]
        return content_key(self._device, dtype, versions, *parts)


def no_base() -> RunError:
    """The error for `base` without a run that has one."""
    return RunError.of(
        "T681",
        "`base` names no model",
        why="it is the base of the first run among the models, and none of them is a run",
        fix="name the base by its folder or hub id",
    )


def _run_name(run: FinishedRun) -> str:
    """The name of a step of a chain, or that of the recipe with the end of the directory's name."""
    return step_of(run.run.path) or f"{run.recipe.name} {run.run.path.name.rpartition('-')[2]}"


def implicit_beta(recipe: Recipe) -> float:
    """The factor of the log-ratio in the implicit rewards of a recipe's model: the `beta` of an objective that trains
    on them, otherwise 1."""
    trains_on_them = objective_of(recipe).reference(recipe.objective) in ("frozen", "live")
    return float(getattr(recipe.objective, "beta", 1.0)) if trains_on_them else 1.0


def _context_length(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _is_reward_model(name: str) -> RunError:
    return RunError.of(
        "T682",
        f"{name} is a reward model, which gives no answers",
        why="it returns one number for a whole text",
        fix="name models that answer, and judge them by it with `--reward`; the result then also has its accuracy on "
        "the pairs of the data",
    )
