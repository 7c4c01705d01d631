"""Checks of the references between the steps of a chain: each leads to a step that makes what is needed, without a
cycle."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dpo_recipes.errors import Finding, Where, path_text
from dpo_recipes.jobs.steps.base import WITH_ARTICLE, Step
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.references import Reference
from dpo_recipes.recipe.rounds import Rounds

References = Mapping[str, list[Reference]]
"""The references of each step, by its name."""


def findings_of_steps(found: Iterable[tuple[str, Finding]], file: str) -> Iterator[Finding]:
    """The findings of steps, each once. One that points into another file than that of the chain also names its steps,
    because several may begin with the same recipe."""
    steps: dict[Finding, list[str]] = {}
    for name, finding in found:
        steps.setdefault(finding, []).append(name)
    for finding, names in steps.items():
        if finding.where is not None and finding.where.file in (file, "--set"):
            yield finding
            continue
        shown = " and ".join(f"`{name}`" for name in dict.fromkeys(names))
        noun = "step" if len(set(names)) == 1 else "the steps"
        yield replace(finding, why="; ".join(part for part in (finding.why, f"in {noun} {shown}") if part))


def check_names(references: References, steps: Mapping[str, Composed], rounds: Rounds) -> Iterator[Finding]:
    """R371: a reference to a step that does not exist."""
    known = {step.name for step in rounds.steps}
    near_names = [*rounds.once, *rounds.repeated]
    found: dict[Finding, None] = {}
    for name, of_step in references.items():
        for reference in of_step:
            if reference.name not in known:
                near = difflib.get_close_matches(reference.name, near_names, n=1, cutoff=0.5)
                finding = Finding(
                    "R371",
                    f"there is no step `{reference.name}`",
                    steps[name].where(reference.at),
                    f"the steps of this chain are {', '.join(rounds.known)}",
                    f"did you mean `step:{near[0]}`?" if near else "name one of these",
                )
                found[finding] = None
    yield from found


def order_of_need(references: References) -> list[str]:
    """The names of the steps so that each stands behind those that it needs, otherwise in the order of the file. Steps
    of a cycle, and those that need one, are left out."""
    places = {name: place for place, name in enumerate(references)}
    missing = {name: {each.name for each in found if each.name in places} for name, found in references.items()}
    users: dict[str, list[str]] = {name: [] for name in references}
    for name, needed in missing.items():
        for each in needed:
            users[each].append(name)
    ready = [place for name, place in places.items() if not missing[name]]
    names, order = list(references), []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for user in users[name]:
            missing[user].discard(name)
            if not missing[user]:
                heapq.heappush(ready, places[user])
    return order


def check_cycle(references: References, steps: Mapping[str, Composed], rounds: Rounds) -> Iterator[Finding]:
    """R372: steps that need each other, each cycle once, and not again in each round."""
    order = set(order_of_need(references))
    left = [name for name in references if name not in order]
    shown: set[Where] = set()
    while left:
        path = [left[0]]
        while (following := _need_of(path[-1], references, left)).name not in path:
            path.append(following.name)
        cycle = path[path.index(following.name) :]
        where = steps[cycle[0]].where(_need_of(cycle[0], references, left).at)
        if where not in shown:
            shown.add(where)
            yield _cycle_finding(cycle, where, rounds)
        cleared = set(cycle)
        left = [name for name in left if name not in cleared and not _leads_to(name, cleared, references)]


def _cycle_finding(cycle: Sequence[str], where: Where, rounds: Rounds) -> Finding:
    is_in_one_round = len({step.round for step in rounds.steps if step.name in cycle}) == 1
    names = [rounds.name_in_file(name) for name in cycle] if is_in_one_round else list(cycle)
    alone = len(names) == 1
    fix = "refer to another step, or give the path of a model or of data"
    if rounds.count is not None:
        fix = f"write `previous:{names[-1]}` where it should be what the round before made, or give a path"
    return Finding(
        "R372",
        f"step `{names[0]}` needs itself" if alone else f"the steps {' and '.join(sorted(names))} need each other",
        where,
        " → ".join([*names, names[0]]) + ": none of them can be the first",
        fix,
    )


def _need_of(name: str, references: References, among: list[str]) -> Reference:
    """The first reference of a step that leads to one of several."""
    return next(each for each in references[name] if each.name in among)


def _leads_to(name: str, targets: set[str], references: References) -> bool:
    """Whether a step needs one of several, also through others."""
    seen: set[str] = set()
    open_ = [name]
    while open_:
        current = open_.pop()
        seen.add(current)
        needed = {each.name for each in references.get(current, ())}
        if needed & targets:
            return True
        open_ += needed - seen
    return False


def check_products(step: Step) -> Iterator[Finding]:
    """R373: a reference at a place where none can stand, or to a step that makes something else; and what the kind of
    the step has to say about its references."""
    wrong = False
    for need in step.needs:
        takes, product, name = step.kind.takes(step.checked.settings, need.at), need.step.product, need.step.title
        if product.kind in takes:
            continue
        wrong = True
        where, place = step.checked.composed.where(need.at), path_text(need.at)
        if not takes:
            what, why = f"`{place}` cannot be what a step makes", f"step `{name}` makes a file or a folder"
            fix = "give the value itself"
        else:
            what = f"step `{name}` makes {WITH_ARTICLE[product.kind]}, which `{place}` cannot be"
            why = f"`{place}` takes {' or '.join(WITH_ARTICLE[each] for each in takes)}"
            fix = f"refer to a step that makes {WITH_ARTICLE[takes[0]]}"
        yield Finding("R373", what, where, why, fix)
    if not wrong:
        yield from step.kind.check_needs(step)
