"""Sets the generation configuration of the tuned model: the end of an answer, and values that can be saved."""

from __future__ import annotations

import re
from typing import Any

from dpo_recipes.errors import Finding, RunError

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
"""Values that transformers 5.23 reads only if `do_sample` is true (`GenerationConfig.validate`)."""


def prepare_generation(policy: Any, end_ids: frozenset[int], pad_id: int, base: str) -> list[Finding]:
    """End generated answers where the chat template ends a turn, and correct values that could not be saved.

    Returns a warning M520 that lists the corrections, if there are any. transformers reads a configuration that
    contradicts itself with a warning and refuses to write it. Raises `RunError` M521 if it cannot be corrected.
    """
    generation = policy.generation_config
    generation.eos_token_id = sorted(end_ids)
    generation.pad_token_id = pad_id
    changes = mend_generation(generation, base)
    if not changes:
        return []
    finding = Finding(
        "M520",
        f"the generation_config.json of {base} contradicts itself",
        why=f"{'; '.join(changes)}. Training does not read it, and transformers refuses to save it unchanged",
        fix="no action is needed; for other values, edit the file of the base or of the saved model",
        severity="warning",
    )
    return [finding]


def mend_generation(generation: Any, base: str) -> list[str]:
    """Correct a configuration so that transformers saves it. Returns a description of each change.

    Sampling values without `do_sample` are intentional, so `do_sample` is added. If `do_sample` is false or the
    temperature is 0, decoding is greedy, the values have no effect, and they are removed.
    """
    faults = _faults(generation, base)
    changes = []
    sampling = [name for name in faults if name in _SAMPLING]
    if sampling:
        values = ", ".join(f"{name}: {getattr(generation, name)}" for name in sampling)
        if generation.do_sample is None and generation.temperature != 0:
            generation.do_sample = True
            changes.append(
                f"it has {values} without `do_sample`: `do_sample: true` was added, so that `generate` samples"
            )
        else:
            greedy = "`do_sample: false`" if generation.do_sample is False else "a temperature of 0"
            _unset(generation, sampling)
            changes.append(f"it has {values} and {greedy}: the values were removed, and `generate` decodes greedily")
    others = [name for name in faults if name not in _SAMPLING]
    if others:
        values = ", ".join(f"{name}: {getattr(generation, name)}" for name in others)
        _unset(generation, others)
        changes.append(f"it has {values}, which has no effect with its other values and was removed")
    if changes:
        left = _faults(generation, base)
        if left:
            raise _cannot_be_saved(base, f"after the correction, {', '.join(left)} still contradict the rest")
    return changes


def _unset(generation: Any, names: list[str]) -> None:
    for name in names:
        setattr(generation, name, None)


def _faults(generation: Any, base: str) -> list[str]:
    """The names of values that transformers would refuse to save. Raises `RunError` M521 for any other refusal."""
    try:
        generation.validate(strict=True)
    except ValueError as error:
        names = re.findall(r"^- `(\w+)`:", str(error), re.MULTILINE)
        if not names:
            raise _cannot_be_saved(base, str(error).strip().splitlines()[0]) from error
        return names
    return []


def _cannot_be_saved(base: str, why: str) -> RunError:
    return RunError.of(
        "M521",
        f"the generation configuration of {base} cannot be saved",
        why=why,
        fix="correct generation_config.json in a local copy of the base, and use that copy as `model.path`",
    )
