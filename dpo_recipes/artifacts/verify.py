"""Checks everything in an artifact before anything of it is unpacked or used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpo_recipes.artifacts.artifact import Artifact, open_artifact
from dpo_recipes.artifacts.container import MAX_BYTES, too_large
from dpo_recipes.artifacts.content import find_home_path, why_not_by_content, why_not_by_name
from dpo_recipes.artifacts.data_check import check_data
from dpo_recipes.artifacts.html_check import find_active_content
from dpo_recipes.artifacts.manifest import ADAPTER_FOLDER, RECIPE_FOLDER, RESULTS_FOLDER, Role
from dpo_recipes.artifacts.recipe_texts import check_texts, folder_of, read_recipe, templates_in
from dpo_recipes.artifacts.safetensors_check import why_not_safetensors
from dpo_recipes.artifacts.signature import check_signature
from dpo_recipes.artifacts.template_check import check_templates
from dpo_recipes.errors import Finding, SharingError
from dpo_recipes.recipe.load import MAX_FILE_BYTES
from dpo_recipes.recipe.paths import DATA_SUFFIXES
from dpo_recipes.recipe.secret_checks import has_secret

RESULT_FILES = ("result.json", "report.html", "metrics.jsonl", "environment.json", "data_report.json")
"""What an artifact may have of a run."""
ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""What an artifact may have of an adapter."""
_MAX_JSON_BYTES = 100_000_000
_MAX_BYTES: dict[Role, int] = {
    "recipe": MAX_FILE_BYTES,
    "lock": MAX_FILE_BYTES,
    "template": MAX_FILE_BYTES,
    "result": _MAX_JSON_BYTES,
    "data": MAX_BYTES,
    "adapter": MAX_BYTES,
}
_SUFFIXES: dict[Role, tuple[str, ...]] = {
    "recipe": (".yaml", ".yml"),
    "lock": (".lock.yaml",),
    "template": (".jinja",),
    "data": DATA_SUFFIXES,
}
_SETTINGS_OF_MODELS = (
    "config.json",
    "tokenizer.json",
    "_map.json",
    ".index.json",
    "modules.json",
    "chat_template.json",
)
"""Ends of the names of files that libraries read beside a model."""
_CODE_IN_CONFIGS = ("auto_map", "auto_mapping", "megatron_config", "parent_library")
"""Keys of configurations of adapters and tokenizers by which libraries import other modules."""


def verify(path: Path, shown: str | None = None) -> Artifact:
    """Open an artifact and check all that it contains. Nothing is unpacked or executed; templates are rendered in a
    process with limits.

    Raises `SharingError` S301 to S307 and S313 for the container, S305, S308 to S312, S316 and S318 to S322 for the
    first file that is refused, and S314 for a wrong signature. An artifact without one is good.
    """
    artifact = open_artifact(path, shown)
    shown = artifact.shown
    templates: dict[str, str] = {}
    for name, entry in artifact.manifest.files.items():
        _check_kind(artifact, name, entry.role)
        _CHECKS[entry.role](artifact, name, templates)
    check_templates(templates, shown)
    if artifact.signature is not None:
        check_signature(artifact.manifest_bytes, artifact.signature, shown)
    return artifact


def _check_kind(artifact: Artifact, name: str, role: Role) -> None:
    """S308 for a file that can be in no artifact, or not with this role, and S305 for one that is too large."""
    shown, size = artifact.shown, artifact.members[name].num_bytes
    head = next(artifact.chunks(name), b"")
    why = why_not_by_name(name) or why_not_by_content(head)
    if why is None and role == "data" and name.rpartition("/")[2].endswith(_SETTINGS_OF_MODELS):
        why = "it configures a model or a tokenizer, and is no data"
    if why is None and not _fits_role(name, role):
        why = f"an artifact has no file of this name and kind with the role `{role}`"
    if why is not None:
        raise _refused(name, shown, why)
    if size > _MAX_BYTES[role]:
        raise too_large(shown, f"{name} has {size / 1e6:.1f} MB, at most {_MAX_BYTES[role] / 1e6:.0f} MB are usual")


def _fits_role(name: str, role: Role) -> bool:
    folder, _, file = name.rpartition("/")
    if role == "result":
        return folder == RESULTS_FOLDER and file in RESULT_FILES
    if role == "adapter":
        is_placed = folder == ADAPTER_FOLDER or folder.startswith(f"{RECIPE_FOLDER}/")
        return is_placed and file in ADAPTER_FILES
    return name.startswith(f"{RECIPE_FOLDER}/") and name.endswith(_SUFFIXES[role])


def _check_recipe(artifact: Artifact, name: str, templates: dict[str, str]) -> None:
    recipe = read_recipe(artifact.read(name), name, folder_of(name, RECIPE_FOLDER))
    findings = list(check_texts(recipe))
    if findings:
        raise SharingError(*findings)
    templates.update(templates_in(recipe))
    own_name = recipe.source.data.get("name", artifact.manifest.name)
    if name == artifact.manifest.recipe and own_name != artifact.manifest.name:
        raise SharingError.of(
            "S306",
            f"the manifest of {artifact.shown} does not fit its files",
            why=f"it says that the recipe is `{artifact.manifest.name}`, and the recipe says {str(own_name)[:100]!r}",
            fix="do not use it; `dpo-recipe pack` makes artifacts",
        )


def _check_template(artifact: Artifact, name: str, templates: dict[str, str]) -> None:
    templates[name] = _read_text(artifact, name)


def _check_data(artifact: Artifact, name: str, templates: dict[str, str]) -> None:
    why = check_data(name, lambda: artifact.chunks(name), artifact.shown)
    if why is not None:
        raise _refused(name, artifact.shown, why)


def _check_result(artifact: Artifact, name: str, templates: dict[str, str]) -> None:
    text = _read_text(artifact, name)
    if name.endswith(".html"):
        if (why := find_active_content(text)) is not None:
            raise SharingError.of(
                "S316",
                f"the report {name} in {artifact.shown} does more than show a page",
                why=why,
                fix="do not open it; the reports of dpo-recipe have no scripts and load nothing",
            )
    else:
        for line in [text] if name.endswith(".json") else text.splitlines():
            _parse_json(line, name, artifact.shown)
    _check_plain_text(text, name, artifact.shown)


def _check_adapter(artifact: Artifact, name: str, templates: dict[str, str]) -> None:
    if name.endswith(".safetensors"):
        why = why_not_safetensors(artifact.chunks(name), artifact.members[name].num_bytes)
        if why is not None:
            raise SharingError.of(
                "S318",
                f"{name} in {artifact.shown} is not a file of safetensors",
                why=why,
                fix="do not use it; ask its author to save the adapter again",
            )
        return
    text = _read_text(artifact, name)
    if name.endswith(".jinja"):
        templates[name] = text
        return
    data = _parse_json(text, name, artifact.shown)
    if not isinstance(data, dict):
        raise _refused(name, artifact.shown, "it is no mapping")
    for key in _CODE_IN_CONFIGS:
        if data.get(key):
            raise _refused(name, artifact.shown, f"`{key}` makes libraries import other code")
    templates.update(_templates_of_tokenizer(name, data.get("chat_template")))
    if not name.endswith("/tokenizer.json"):
        _check_plain_text(text, name, artifact.shown)


def _templates_of_tokenizer(name: str, value: Any) -> dict[str, str]:
    """The templates in a tokenizer's configuration: a text, or a list of named ones."""
    named = value if isinstance(value, list) else [{"name": "default", "template": value}]
    texts = [(each.get("name"), each.get("template")) for each in named if isinstance(each, dict)]
    return {f"{name}: {label}": text for label, text in texts if isinstance(text, str)}


_CHECKS: dict[Role, Callable[[Artifact, str, dict[str, str]], None]] = {
    "recipe": _check_recipe,
    "lock": _check_recipe,
    "template": _check_template,
    "data": _check_data,
    "result": _check_result,
    "adapter": _check_adapter,
}


def _read_text(artifact: Artifact, name: str) -> str:
    if artifact.members[name].num_bytes > _MAX_JSON_BYTES:
        raise too_large(artifact.shown, f"{name} is a text of more than {_MAX_JSON_BYTES / 1e6:.0f} MB")
    try:
        return artifact.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(name, artifact.shown, f"it is not UTF-8 text: {error.reason}") from error


def _parse_json(text: str, name: str, shown: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(name, shown, f"it is not JSON: {error}") from error


def _check_plain_text(text: str, name: str, shown: str) -> None:
    findings = list(_plain_findings(text, name, shown))
    if findings:
        raise SharingError(*findings)


def _plain_findings(text: str, name: str, shown: str) -> Iterator[Finding]:
    if has_secret(text):
        yield Finding(
            "S311",
            f"{name} in {shown} has a secret in its text",
            why="whoever gets the artifact could use it",
            fix="tell its author, who should revoke it",
        )
    if (path := find_home_path(text)) is not None:
        yield Finding(
            "S312",
            f"{name} in {shown} names a home folder: {path[:60]}",
            why="it tells where somebody works and means nothing on another machine",
            fix="make the artifact again with `dpo-recipe pack`, which removes such paths",
        )


def _refused(name: str, shown: str, why: str) -> SharingError:
    return SharingError.of(
        "S308",
        f"{name} in {shown} cannot be part of an artifact",
        why=why,
        fix="do not use it; an artifact has recipes, templates, data, results and safetensors",
    )
