"""Parses YAML text into PyYAML's nodes with limits on depth and size, which are checked during parsing.

PyYAML's scanner compares each bracket with all open ones, and its composer recurses for each level. Without limits, a
few kilobytes of brackets take seconds and then exhaust Python's stack.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

MAX_DEPTH = 64
"""The maximum nesting depth of lists and mappings; recipes need only a few levels."""
MAX_VALUES = 20_000
"""The maximum number of values of a recipe after aliases are expanded; the largest real recipes have a few hundred."""


class Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not allowed in a recipe; `code` is the code of the finding."""

    def __init__(self, code: str, what: str, why: str, fix: str, mark: Any) -> None:
        super().__init__(None, None, what, mark)
        self.code, self.what, self.why, self.fix = code, what, why, fix


class _Extent(NamedTuple):
    """The size of a node after its aliases are expanded."""

    num_values: int
    depth: int


def compose_nodes(text: str) -> yaml.Node | None:
    """The only document of a text, or None if the text is empty. Raises `Refused`, and PyYAML's errors for bad
    syntax."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's composer with limits. The tags of PyYAML's own resolver are not used."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._extents: dict[int, _Extent] = {}
        self._num_nodes = 0
        self._has_aliases = False

    def get_event(self) -> Any:
        event = super().get_event()
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise Refused(
                "R104",
                f"the tag `{shown}` is not allowed in a recipe",
                "tags can make a YAML parser create any object, but a recipe is plain data",
                "remove the tag; quote the value if it should be text",
                event.start_mark,
            )
        return event

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        self._check_depth(self.flow_level + len(self.indents), self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._check_depth(len(self.indents), self.get_mark())
        return super().add_indent(column)

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        self._has_aliases |= is_alias
        self._num_nodes += 1
        if self._num_nodes > MAX_VALUES:
            raise self._multiplied(mark)
        node = super().compose_node(parent, index)
        if id(node) not in self._extents:
            if is_alias:  # an alias of a node that is still being composed
                raise self._multiplied(mark, "an alias contains itself")
            self._extents[id(node)] = self._measure(node, mark)
        return node

    def _measure(self, node: yaml.Node | None, mark: Any) -> _Extent:
        children = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = [value for _, value in node.value]
        extents = [self._extents[id(child)] for child in children]
        extent = _Extent(1 + sum(e.num_values for e in extents), 1 + max((e.depth for e in extents), default=0))
        self._check_depth(extent.depth, mark)
        if extent.num_values > MAX_VALUES:
            raise self._multiplied(mark)
        return extent

    def _check_depth(self, depth: int, mark: Any) -> None:
        if depth > MAX_DEPTH:
            raise Refused(
                "R109",
                "the recipe is nested too deeply",
                f"lists and mappings are nested more than {MAX_DEPTH} levels deep",
                "flatten it",
                mark,
            )

    def _multiplied(self, mark: Any, why: str = f"expanded, it would have more than {MAX_VALUES:,} values") -> Refused:
        if self._has_aliases:
            what, fix = "the aliases in this recipe multiply without bound", "write the values out"
            return Refused("R105", what, why, f"{fix}, or share them through `extends:`", mark)
        what, why = "this recipe has too many values", f"it has more than {MAX_VALUES:,}"
        return Refused("R105", what, why, "keep data in files and name them under `data.train[].path`", mark)
