"""Compares a job with its lock: its settings, the content of its inputs, its rows, and the packages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from dpo_recipes.errors import DpoRecipeError, Finding, SharingError, Where
from dpo_recipes.jobs.chain_file import ValidatedChain
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.resume import leaves
from dpo_recipes.share.content import condensed, describe, on_hub
from dpo_recipes.share.hub_files import Repository
from dpo_recipes.share.inputs import Input, Job, inputs_of
from dpo_recipes.share.lock import OnStage, jobs_of, lock_rows, name_of, packages_of, this_machine, values_of
from dpo_recipes.share.lock_file import Lock, LockedFile, LockedInput, LockedJob, LockedRows

_AGAIN = "restore what was locked, or make the lock again with `dpo-recipe lock`"
_MAX_NAMED = 5
"""The number of differences of one kind that are named; the others are counted."""
_ABSENT = "absent"


class Scope(NamedTuple):
    """How far a comparison goes."""

    may_download: bool
    """Whether files of models that are not in the cache are downloaded and read, instead of compared by the hub's
    metadata."""
    packages: bool = True
    """Whether other versions of packages are errors, and not warnings."""


def compare(lock: Lock, validated: Validated | ValidatedChain, scope: Scope, on_stage: OnStage) -> list[Finding]:
    """Everything in which a job differs from its lock, with the place in the recipe. Warnings are differences that the
    lock permits, such as the device.

    Raises `SharingError` S105 if the lock is that of another recipe.
    """
    jobs = jobs_of(validated)
    _check_same(lock, validated, jobs)
    found: list[Finding] = []
    for job in jobs:
        locked = lock.jobs[job.name]
        changed = [*_compare_values(locked, job)]
        inputs = [*_compare_inputs(locked, job, scope, on_stage)]
        found += [*changed, *inputs]
        if not changed and not any(finding.code in _UNREADABLE for finding in inputs):
            found += _compare_rows(locked.rows, job, on_stage, is_suspect=bool(inputs))
    severity = "error" if scope.packages else "warning"
    return [*found, *_compare_packages(lock.packages, packages_of(jobs), severity), *_compare_device(lock, jobs)]


_UNREADABLE = ("S109", "S110", "S111", "S112")
"""An input of which something is missing. Reading rows would only fail for the same reason."""


def _check_same(lock: Lock, validated: Validated | ValidatedChain, jobs: list[Job]) -> None:
    name = name_of(validated)
    ours, theirs = [job.name for job in jobs], list(lock.jobs)
    if lock.name == name and sorted(ours) == sorted(theirs):
        return
    why = f"it locks {lock.name}, and the recipe is {name}" if lock.name != name else f"it has {_named(theirs)}"
    raise SharingError.of(
        "S105",
        "the lock is that of another recipe" if lock.name != name else f"the lock does not have {_named(ours)}",
        where=validated.composed.where(("name",) if lock.name != name else ("steps",), key=True),
        why=why,
        fix="restore the recipe or its lock, or make the lock again with `dpo-recipe lock`",
    )


def _named(steps: list[str]) -> str:
    return f"the steps {', '.join(steps)}" if steps != [""] else "a single run"


def _compare_values(locked: LockedJob, job: Job) -> Iterator[Finding]:
    """S106: a setting that determines the result has another value."""
    before, now = ({**dict(leaves(values)), "kind": kind} for values, kind in
                   ((locked.values, locked.kind), (values_of(job), job.kind.kind)))  # fmt: skip
    changed = [path for path in {**before, **now} if before.get(path, _ABSENT) != now.get(path, _ABSENT)]
    for path in changed[:_MAX_NAMED]:
        where = job.composed.where(_data_path(path))
        is_set = where.file == "--set"
        yield Finding(
            "S106",
            f"`{path}` differs from the lock{_of(job)}",
            where,
            f"locked is {_shown(before.get(path, _ABSENT))}, found is {_shown(now.get(path, _ABSENT))}",
            "leave `--set` out, try the value without the lock (`run --lock off`), or lock it (`run --update-lock`)"
            if is_set
            else "restore the value, run without the lock (`run --lock off`), or make it again (`run --update-lock`)",
        )
    if len(changed) > _MAX_NAMED:
        names = ", ".join(f"`{path}`" for path in changed[_MAX_NAMED:][:20])
        what = f"{len(changed) - _MAX_NAMED} more values differ from the lock{_of(job)}"
        yield Finding("S106", what, Where(job.composed.file), names, _AGAIN)


def _compare_inputs(locked: LockedJob, job: Job, scope: Scope, on_stage: OnStage) -> Iterator[Finding]:
    """S107: an input has another content; and S109 to S112 for one that cannot be read."""
    ours = {one.key: one for one in inputs_of(job)}
    for key, one in ours.items():
        where, known = job.composed.where(one.at), locked.inputs.get(key)
        if known is None:  # another value, which is reported as such
            continue
        on_stage("lock", f"checking {key}{_of(job)}")
        try:
            found = _content(one, known, job, scope)
        except DpoRecipeError as error:
            yield from (_placed(finding, where) for finding in error.findings)
            continue
        if found.commit != known.commit:
            yield Finding(
                "S107",
                f"`{key}` has moved: {one.path} is at another commit than the lock{_of(job)}",
                where,
                f"locked is {known.commit}, found is {found.commit}",
                _AGAIN,
            )
        else:
            yield from _compare_files(known.files, found.files, one, where, _of(job))


def _content(one: Input, known: LockedInput, job: Job, scope: Scope) -> LockedInput:
    """What an input contains now. One from the hub is read at the commit that is locked, if the recipe can name it."""
    if known.commit is None:
        sha256 = job.settings.model.sha256 if one.at == ("model", "path") else None
        return describe(one, sha256)
    if one.pin is None:
        repository, names = on_hub(one)
        return known.model_copy(update={"commit": repository.commit, "files": condensed(repository.describe(names))})
    kind = "dataset" if one.role == "data" else "model"
    repository = Repository(one.path, kind, known.commit)
    if len(known.files) == 1 and next(iter(known.files)).startswith("("):  # too many for one entry each
        return known  # the commit names their content
    names = list(known.files)
    downloads = scope.may_download and one.role != "data"
    return known.model_copy(update={"files": repository.describe(names, by_metadata=not downloads)})


def _compare_files(
    before: Mapping[str, LockedFile], now: Mapping[str, LockedFile], one: Input, where: Where, of: str
) -> Iterator[Finding]:
    changed = [name for name in sorted({**before, **now}) if before.get(name) != now.get(name)]
    for name in changed[:_MAX_NAMED]:
        old, new = before.get(name), now.get(name)
        yield Finding(
            "S107",
            f"{name} of `{one.key}` {'is missing' if new is None else 'is new' if old is None else 'has changed'}{of}",
            where,
            f"locked is {_file(old)}, found is {_file(new)}",
            _AGAIN,
        )
    if len(changed) > _MAX_NAMED:
        yield Finding(
            "S107", f"{len(changed) - _MAX_NAMED} more files of `{one.key}` differ{of}", where,
            ", ".join(changed[_MAX_NAMED:][:20]), _AGAIN,
        )  # fmt: skip


def _compare_rows(
    before: Mapping[str, LockedRows], job: Job, on_stage: OnStage, *, is_suspect: bool
) -> Iterator[Finding]:
    """S108: the rows of a split are others. `is_suspect`: inputs differ, so that reading them may fail too."""
    try:
        now = lock_rows(job, on_stage)
    except DpoRecipeError as error:
        if is_suspect:
            return
        raise error.located(job.composed.where) from error
    for split in {**before, **now}:
        old, new = before.get(split), now.get(split)
        if old == new:
            continue
        counts = f"locked are {_rows(old)}, found are {_rows(new)}"
        yield Finding(
            "S108",
            f"the rows of the split `{split}` differ from the lock{_of(job)}",
            job.composed.where(("data",), key=True),
            counts,
            f"{_AGAIN}. If no file has changed, the versions of `datasets` or dpo-recipe may have",
        )


def _compare_packages(
    before: Mapping[str, str], now: Mapping[str, str], severity: Literal["error", "warning"]
) -> Iterator[Finding]:
    """S114: packages have other versions. Builds of one version, such as `2.13.0+cu130`, are not distinguished."""
    changed = [
        name
        for name in sorted({**before, **now})
        if before.get(name, _ABSENT).partition("+")[0] != now.get(name, _ABSENT).partition("+")[0]
    ]
    if not changed:
        return
    wanted = [f"{name}=={before[name].partition('+')[0]}" for name in changed if name in before]
    install = f"install them: `pip install {' '.join(wanted)}`; or " if wanted else ""
    yield Finding(
        "S114",
        f"{'a package has another version' if len(changed) == 1 else 'packages have other versions'} than in the lock",
        None,
        "; ".join(f"{name}: locked is {before.get(name, _ABSENT)}, found is {now.get(name, _ABSENT)}"
                  for name in changed),
        f"{install}run with these versions (`run --lock inputs`), or make the lock again with `dpo-recipe lock`",
        severity,
    )  # fmt: skip


def _compare_device(lock: Lock, jobs: Iterable[Job]) -> Iterator[Finding]:
    """S115, a warning: the lock was made on another kind of device."""
    here = this_machine(jobs).device
    if here != lock.made_on.device:
        yield Finding(
            "S115",
            f"the lock was made for {lock.made_on.device}, and this machine has {here}",
            None,
            f"it was made on {lock.made_on.name}; other devices round differently",
            "expect losses that agree to a few digits, not to the bit",
            "warning",
        )


def _placed(finding: Finding, where: Where) -> Finding:
    return finding if finding.where is not None else replace(finding, where=where)


def _data_path(path: str) -> DataPath:
    """The path of a value from its text as `leaves` writes it."""
    steps: list[str | int] = []
    for part in path.replace("]", "").replace("[", ".#").split("."):
        steps.append(int(part[1:]) if part.startswith("#") else part)
    return tuple(steps)


def _of(job: Job) -> str:
    return f" in step `{job.name}`" if job.name else ""


def _shown(value: Any) -> str:
    return value if value is _ABSENT else f"{value!r:.80}"


def _file(file: LockedFile | None) -> str:
    return "no file" if file is None else f"{file.sha256[:12]}… of {file.size:,} bytes"


def _rows(rows: LockedRows | None) -> str:
    return "none" if rows is None else f"{rows.rows} ({rows.sha256[:12]}…)"
