"""Secrets do not belong in a recipe, and findings do not show them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from dpo_recipes.errors import Finding, Where
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.schema import Recipe

_SECRET_KEY = re.compile(
    r"(^|_)(api_?key|access_?key|private_?key|secret(_?key)?|password|passwd|passphrase|credentials?"
    r"|(hf|hub|hugging_?face|api|auth|access|bearer|write|wandb|neptune)_?token)$|^token$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bwandb_v\d_\w{20,}|\beyJ[\w-]{10,}\.[\w-]{10,}|://[^/\s:@]+:[^/\s@]+@"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{40,}|\bglpat-[\w-]{20,}"
    r"|\bAKIA[A-Z0-9]{16}\b|\bxox[abps]-[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Tokens of the hub, newer keys of W&B, JSON web tokens, addresses with a password, tokens of OpenAI, Anthropic,
GitHub, GitLab, AWS and Slack, and private keys."""
_HEX_KEY = re.compile(r"\b[0-9a-f]{40}\b")
"""Older keys of W&B. The commits of repositories have the same form."""


def check_secret_values(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R381: a value of `tracking` looks like a secret."""
    for name in ("project", "run_name", "group"):
        value = getattr(recipe.tracking, name)
        if value is not None and (has_secret(value) or _HEX_KEY.search(value)):
            at = ("tracking", name)
            yield secret_finding(f"`tracking.{name}` looks like a secret", composed.where(at, key=True))


def has_secret(text: str) -> bool:
    """Whether a text has a token or a password that cannot be anything else."""
    return _SECRET_TEXT.search(text) is not None


def is_secret_key(key: str) -> bool:
    """Whether a key that no section has is meant for a secret."""
    return _SECRET_KEY.search(key) is not None


def secret_finding(what: str, where: Where) -> Finding:
    """The finding R381, which does not show the value after the key in its line."""
    if where.text is not None:
        end = where.column - 1 + where.length
        text = where.text[:end] + ("..." if where.text[end:].strip(" :=") else "")
        where = replace(where, text=text)
    return Finding(
        "R381",
        what,
        where,
        "a recipe is copied to the run directory, to trackers and to other people",
        "remove it, and if the recipe was shared, revoke the secret. Set the environment variable that the service "
        "documents, such as WANDB_API_KEY or HF_TOKEN, or log in with the service's own command",
    )


def hide_secrets(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, of which others in the line of a secret do not show that line."""
    findings = list(findings)
    lines = {(f.where.file, f.where.line) for f in findings if f.code == "R381" and f.where is not None}
    return [
        replace(f, where=replace(f.where, text=None))
        if f.where is not None and f.code != "R381" and (f.where.file, f.where.line) in lines
        else f
        for f in findings
    ]
