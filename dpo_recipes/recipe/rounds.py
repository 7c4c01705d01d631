"""Chains with `rounds`: the steps that such a chain has, and what a reference means in each round."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dpo_recipes.errors import Finding, RecipeError, Where, path_text
from dpo_recipes.recipe.compose import Composed, Origin
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.references import Reference, find_references, placed
from dpo_recipes.recipe.schema.chain import MAX_STEP_NAME, Chain

_ROUND = re.compile(r"(.+)-([1-9][0-9]*)")
_OF_ALL_ROUNDS = {
    "kind": "all rounds of a step are of one kind",
    "recipe": "all rounds of a step begin with one recipe",
    "once": "a step that is done once has no rounds",
}
"""Keys of a step that one of its rounds cannot have, with the reasons."""


@dataclass(frozen=True)
class NamedStep:
    """One step of a chain, or one round of a step."""

    name: str
    """Its name in the chain: `dpo`, or `dpo-2` for the second round."""
    written: str
    """Its name in the file, without the number of the round."""
    round: int | None = None
    """None if it is done once."""
    entries: tuple[str, ...] = ()
    """The keys in `steps` that it consists of: that of the step, and that of this round if there is one."""

    @property
    def prefixes(self) -> list[str]:
        """How overrides of the command line that are for it begin."""
        return [f"steps.{name}." for name in dict.fromkeys((self.written, self.name))]


@dataclass(frozen=True)
class Rounds:
    """The steps of a chain. Without `rounds`, each is done once and has the name that it has in the file."""

    count: int | None
    steps: tuple[NamedStep, ...]
    """Those of a round stand together, in the order of the file."""
    start: Mapping[str, str]

    @property
    def once(self) -> list[str]:
        """The names of the steps that are done once."""
        return [step.name for step in self.steps if step.round is None]

    @property
    def repeated(self) -> list[str]:
        """The names in the file of the steps that are done in each round."""
        return list(dict.fromkeys(step.written for step in self.steps if step.round is not None))

    @property
    def known(self) -> list[str]:
        """The names of all steps as an error lists them."""
        rounds = [f"{name} ({name}-1{f' to {name}-{self.count}' if self.count != 1 else ''})" for name in self.repeated]
        return [*self.once, *rounds]

    def named(self, name: str) -> NamedStep:
        """The step of a name that there is."""
        return next(step for step in self.steps if step.name == name)

    def name_in_file(self, name: str) -> str:
        """The name that a step has in the file."""
        return next((step.written for step in self.steps if step.name == name), name)


def split_round(key: str, steps: Collection[str]) -> tuple[str, int] | None:
    """The step and the number of the round that a key such as `dpo-2` names, if there is such a step."""
    match = _ROUND.fullmatch(key)
    return (match[1], int(match[2])) if match is not None and match[1] in steps else None


def unroll(chain: Chain) -> Rounds:
    """The steps that a chain has."""
    if chain.rounds is None:
        return Rounds(None, tuple(NamedStep(name, name, None, (name,)) for name in chain.steps), {})
    entries = _entries(chain)
    steps = []
    for number in range(1, chain.rounds + 1):
        for name, head in chain.steps.items():
            if name in entries:
                continue
            if not head.once:
                one = f"{name}-{number}"
                steps.append(NamedStep(one, name, number, (name, one) if one in entries else (name,)))
            elif number == 1:
                steps.append(NamedStep(name, name, None, (name,)))
    return Rounds(chain.rounds, tuple(steps), chain.start)


def _entries(chain: Chain) -> dict[str, tuple[str, int]]:
    """The keys in `steps` that are for one round of another step, with its name and the number."""
    found: dict[str, tuple[str, int]] = {}
    for key in chain.steps:
        split = split_round(key, chain.steps)
        if split is not None and split[0] not in found and not chain.steps[split[0]].once:
            found[key] = split
    return found


# --- what is written about rounds ----------------------------------------------------------------


def check_rounds(chain: Chain, file: Composed) -> Iterator[Finding]:
    """R371, R375 and R379: what a file says about rounds that it does not have."""
    if chain.rounds is None:
        if chain.start:
            yield Finding(
                "R379",
                "`start` without `rounds`",
                file.where(("start",), key=True),
                "`start` says what `previous:NAME` stands for in the first round, and this chain has no rounds",
                "write `rounds: 2` or more, or remove `start`",
            )
        return
    entries = _entries(chain)
    for key, (name, number) in entries.items():
        yield from _check_entry(key, name, number, chain, file)
    whole = [name for name in chain.steps if name not in entries]
    yield from _check_start(whole, chain, file)
    repeated = [name for name in whole if not chain.steps[name].once]
    if not repeated:
        yield Finding(
            "R379",
            "no step is done in rounds",
            file.where(("rounds",), key=True),
            "each of the steps has `once: true`",
            "remove `once` from those that are done in each round, or remove `rounds`",
        )
    for name in repeated:
        last = f"{name}-{chain.rounds}"
        if len(last) > MAX_STEP_NAME:
            yield Finding(
                "R379",
                f"the name of step `{name}` is too long for rounds",
                file.where(("steps", name), key=True),
                f"its last round would be called {last}, and names of steps have at most {MAX_STEP_NAME} characters",
                "choose a shorter name",
            )


def _check_entry(key: str, name: str, number: int, chain: Chain, file: Composed) -> Iterator[Finding]:
    """What stands under a key such as `dpo-2`."""
    if number > (chain.rounds or 0):
        yield no_such_round(name, number, chain.rounds or 0, file.where(("steps", key), key=True))
    for field, why in _OF_ALL_ROUNDS.items():
        if field in chain.steps[key].model_fields_set:
            yield Finding(
                "R375",
                f"a round of step `{name}` cannot have `{field}`",
                file.where(("steps", key, field), key=True),
                f"`{key}` changes round {number} of `{name}`, and {why}",
                f"remove `{field}`, or write it in `{name}`; a step of its own needs another name",
            )


def no_such_round(name: str, number: int, count: int, where: Where) -> Finding:
    """R379: a round that is not done."""
    return Finding(
        "R379",
        f"step `{name}` has no round {number}",
        where,
        f"this chain has {count} round{'s' * (count != 1)}",
        f"name one of `{name}-1` to `{name}-{count}`, or raise `rounds`",
    )


def _check_start(whole: Sequence[str], chain: Chain, file: Composed) -> Iterator[Finding]:
    for name, given in chain.start.items():
        where = file.where(("start", name), key=True)
        if name not in whole:
            yield _unknown(name, whole, where=where, prefix="")
        elif chain.steps[name].once:
            why = f"step `{name}` has `once: true`, so there is no round before"
            yield Finding("R379", f"`start.{name}` has no meaning", where, why, "remove it")
        elif any(_is_of_a_round(each, chain) for each in find_references(given)):
            yield Finding(
                "R378",
                f"`start.{name}` cannot be what a round made",
                file.where(("start", name)),
                "it is what the first round begins with",
                "write the path of a model or of data, or `step:NAME` of a step with `once: true`",
            )


def _is_of_a_round(reference: Reference, chain: Chain) -> bool:
    """Whether a reference leads to a step that is done in each round, or to one of its rounds."""
    split = split_round(reference.name, chain.steps)
    head = chain.steps.get(split[0] if split else reference.name)
    return reference.is_previous or (head is not None and not head.once)


def _unknown(name: str, known: Sequence[str], *, prefix: str, where: Where) -> Finding:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return Finding(
        "R371",
        f"there is no step `{name}`",
        where,
        f"the steps of this chain are {', '.join(known)}",
        f"did you mean `{prefix}{near[0]}`?" if near else "name one of these",
    )


# --- references ----------------------------------------------------------------------------------


def resolve_references(
    composed: Composed, step: NamedStep, rounds: Rounds, file: Composed
) -> tuple[Composed, dict[DataPath, str]]:
    """The data of a step with references to steps of the chain, and the texts that were written there.

    `step:NAME` means the same round, for a step that is done once the last one. `previous:NAME` means the round before;
    in the first one, the value in `start`, which then stands there with its origin. Raises `RecipeError` R371 and R378.
    """
    resolver = _Resolver(step, rounds)
    values: dict[DataPath, str] = {}
    origins: dict[DataPath, Origin] = dict(composed.origins)
    written: dict[DataPath, str] = {}
    findings: list[Finding] = []
    for reference in find_references(composed.data):
        written[reference.at] = reference.text
        problem = resolver.problem(reference, composed)
        if problem is not None:
            findings.append(problem)
            continue
        values[reference.at] = resolver.resolve(reference)
        if reference.is_previous and step.round == 1:
            origins[reference.at] = file.origins["start", reference.name]
    if findings:
        raise RecipeError(*findings)
    return replace(composed, data=placed(composed.data, values), origins=origins), written


@dataclass(frozen=True)
class _Resolver:
    """What references mean in a step."""

    step: NamedStep
    rounds: Rounds

    def resolve(self, reference: Reference) -> str:
        """The reference to a step of the chain, or the start."""
        round_ = self.step.round
        if not reference.is_previous:
            return f"step:{self._of_round(reference.name, round_ or self.rounds.count)}"
        assert round_ is not None
        if round_ > 1:
            return f"step:{reference.name}-{round_ - 1}"
        start = self.rounds.start[reference.name]
        for inner in find_references(start):
            return f"step:{self._of_round(inner.name, self.rounds.count)}"
        return start

    def _of_round(self, name: str, number: int | None) -> str:
        return f"{name}-{number}" if name in self.rounds.repeated else name

    def problem(self, reference: Reference, composed: Composed) -> Finding | None:
        """R371 or R378, if `previous:NAME` means nothing here."""
        if not reference.is_previous:
            return None
        name, where, repeated = reference.name, composed.where(reference.at), self.rounds.repeated
        if self.rounds.count is None:
            why = "this chain has no `rounds`, so nothing was made in a round before"
            fix = f"write `rounds: 2` or more at the top of the file, or `step:{name}`"
        elif name not in repeated and name not in self.rounds.once:
            return _unknown(name, repeated or self.rounds.once, prefix="previous:", where=where)
        elif self.step.round is None:
            why = f"step `{self.step.name}` has `once: true`, so it is in no round"
            fix = f"write `step:{name}`, which means that of the last round, or the name of a round such as `{name}-1`"
        elif name not in repeated:
            why, fix = f"step `{name}` has `once: true`: it is done before the rounds", f"write `step:{name}`"
        elif self.step.round == 1 and name not in self.rounds.start:
            why = "before the first round, none has made anything"
            instead = f"another `{path_text(reference.at)}` in step `{self.step.name}`"
            fix = f"write `start: {{{name}: PATH}}` at the top of the file, or {instead}"
        else:
            return None
        return Finding("R378", f"`{reference.text}` means nothing here", where, why, fix)


def check_sameness(composed: Mapping[str, Composed], rounds: Rounds, order: Sequence[str]) -> Iterator[Finding]:
    """R382: a step that would do the same in each round. `order` has the names of the steps in the order of need."""
    if (rounds.count or 0) < 2:
        return
    firsts = {step.written: step for step in rounds.steps if step.round == 1}
    same: dict[str, str] = {}
    for name in order:
        step = next(each for each in rounds.steps if each.name == name)
        if step.round != 2 or name not in composed or firsts[step.written].name not in composed:
            continue
        first, second = composed[firsts[step.written].name], composed[name]
        equal = {each.at: f"step:{same[each.name]}" for each in find_references(second.data) if each.name in same}
        if {**placed(second.data, equal), "name": ""} == {**first.data, "name": ""}:
            same[name] = firsts[step.written].name
            yield Finding(
                "R382",
                f"step `{step.written}` does the same in each round",
                second.step_place,
                "it uses nothing that differs from round to round",
                "write `once: true` in it, or `previous:NAME` where it should use what the round before made",
                "warning",
            )
