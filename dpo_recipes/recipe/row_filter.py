r"""Parses the language of `filter:`, which selects the rows of a source, such as `score_chosen - score_rejected >= 1`.

The syntax resembles Python's, but the parser below reads it; no text is evaluated as Python. The language has
comparisons (`== != < <= > >=`, also chained), `in` and `not in` (a list in square brackets, a text, or a column that
contains a list), `and or not`, `+ - * /` on numbers, parentheses, numbers, quoted texts, `true`, `false`, `null`,
columns (`meta.lang` reaches into an object; unusual names are written in backquotes) and the functions in
`filter_values.FUNCTIONS`.

- In texts, `\'`, `\"`, `\\`, `\n` and `\t` are escapes; any other backslash is kept, so that `"\d+"` is a pattern.
- Null, NaN, and results computed from null or divided by zero are null. A comparison with null is false, also with
  `!=` and `not in`. Only `x == null`, `x != null`, `x in [..., null]` and `is_null(x)` test for null, and for these a
  missing column is null as well. Null counts as false in `and`, `or`, `not`.
- Texts that contain numbers, as in CSV files, count as numbers in arithmetic, when compared with a number, and when two
  of them are ordered; an empty text counts as null there. `==` between two texts compares texts. The texts `true` and
  `false` (any case) count as true and false. Dates are ISO texts.
- `matches` refuses patterns that repeat a repeat, `(a+)+`, and texts of over 100,000 characters. Some slow patterns
  remain, such as `(a|a)*b`: a filter is as trusted as the recipe that contains it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from dpo_recipes.recipe import filter_values as values
from dpo_recipes.recipe.filter_tokens import FilterSyntaxError, Token, compiled, no_function, tokens, unquoted
from dpo_recipes.recipe.filter_values import Columns, FilterTypeError, Kind, Node

__all__ = ["FilterSyntaxError", "FilterTypeError", "RowFilter", "parse"]

MAX_CHARS = 2000
MAX_DEPTH = 50

_KINDS: dict[Kind, str] = {"truth": "true or false", "number": "a number", "text": "a text", "null": "null"}
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


@dataclass(frozen=True)
class RowFilter:
    """A parsed filter: its text, and the columns that it names, as written (`meta.lang`)."""

    text: str
    columns: frozenset[str]
    _root: Node = field(repr=False, compare=False)

    def keeps(self, columns: Columns) -> bool:
        """Whether a row with these columns is kept. Raises `FilterTypeError`."""
        return values.truth(self._root, columns)


def parse(text: str) -> RowFilter:
    """Parse a filter. Raises `FilterSyntaxError`."""
    if len(text) > MAX_CHARS:
        raise FilterSyntaxError(f"the filter is longer than {MAX_CHARS} characters", MAX_CHARS, len(text) - MAX_CHARS)
    parser = _Parser(text)
    root = parser.whole()
    return RowFilter(text, frozenset(parser.columns), root)


class _Parser:
    """A recursive descent parser: each method parses one level of the grammar, from `or`, which has the lowest
    precedence, to single values."""

    def __init__(self, text: str) -> None:
        self.columns: set[str] = set()
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        if self._next.kind == "end":
            raise FilterSyntaxError("the filter is empty", 0, max(1, len(self._text)))
        root = self._any()
        if self._next.kind != "end":
            self._unexpected("; join two conditions with `and` or `or`")
        return self._expect(root, "truth")

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> Token | None:
        """The next token, if it is one of these words or signs."""
        token = self._next
        if token.text not in texts or token.kind not in ("word", "sign"):
            return None
        self._at += 1
        return token

    def _unexpected(self, hint: str = "") -> NoReturn:
        token = self._next
        what = f"`{token.text}` is not expected here" if token.text else "something is missing at the end"
        raise FilterSyntaxError(what + hint, token.position, max(1, len(token.text)))

    def _close(self, sign: str, opened: Token) -> None:
        if self._next.kind == "end":
            raise FilterSyntaxError(f"`{opened.text}` is not closed", opened.position, len(opened.text))
        if not self._take(sign):
            is_tuple = sign == ")" and self._next.text == ","
            self._unexpected("; write a list in square brackets" if is_tuple else f"; `,` or `{sign}` may be missing")

    def _node(self, start: int, kind: Kind, value: Callable[[Columns], Any]) -> Node:
        last = self._tokens[self._at - 1]
        return Node(self._text[start : last.position + len(last.text)], start, kind, value)

    def _expect(self, node: Node, *kinds: Kind) -> Node:
        if node.kind not in (*kinds, "column"):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            hint = "; compare it with something" if kinds == ("truth",) else ""
            message = f"`{node.text}` is {_KINDS[node.kind]}, not {wanted}{hint}"
            raise FilterSyntaxError(message, node.position, len(node.text))
        return node

    def _nested(self, part: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FilterSyntaxError(f"this is nested more than {MAX_DEPTH} deep", self._next.position, 1)
        node = part()
        self._depth -= 1
        return node

    def _any(self) -> Node:
        nodes = [self._all()]
        while self._take("or"):
            nodes.append(self._all())
        return self._joined(nodes, any)

    def _all(self) -> Node:
        nodes = [self._not()]
        while self._take("and"):
            nodes.append(self._not())
        return self._joined(nodes, all)

    def _joined(self, nodes: list[Node], join: Callable[..., bool]) -> Node:
        if len(nodes) == 1:
            return nodes[0]
        for node in nodes:
            self._expect(node, "truth")
        return self._node(nodes[0].position, "truth", lambda row: join(values.truth(node, row) for node in nodes))

    def _not(self) -> Node:
        token = self._take("not")
        if not token:
            return self._comparison()
        node = self._expect(self._nested(self._not), "truth")
        return self._node(token.position, "truth", lambda row: not values.truth(node, row))

    def _comparison(self) -> Node:
        left = first = self._sum()
        tests: list[Callable[[Columns], bool]] = []
        while token := self._take("==", "!=", "<", "<=", ">", ">=", "in", "not"):
            sign = token.text
            if sign == "not":
                sign = "not in"
                if not self._take("in"):
                    self._unexpected("; after a value, only `in` can follow `not`")
            is_in = sign in ("in", "not in")
            right = self._members() if is_in else self._sum()
            if "null" in (left.kind, right.kind) and sign not in ("==", "!="):
                raise FilterSyntaxError(f"`{sign}` cannot be used with null; use `==`", token.position, len(token.text))
            tests.append(values.comparison(sign, left, right))
            if right.kind == "list":
                break
            left = right
        return self._node(first.position, "truth", lambda row: all(test(row) for test in tests)) if tests else first

    def _members(self) -> Node:
        """The right side of `in`: a list or a text."""
        opened = self._take("[")
        if not opened:
            return self._expect(self._sum(), "text")
        items: list[Any] = []
        while self._next.text != "]":
            node = self._factor()
            if not node.is_literal:
                message = "a list can contain only numbers, texts, true, false and null"
                raise FilterSyntaxError(message, node.position, len(node.text))
            items.append(node.value({}))
            if not self._take(","):
                break
        self._close("]", opened)
        return self._node(opened.position, "list", values.constant(items))

    def _sum(self) -> Node:
        return self._calculation(("+", "-"), self._product)

    def _product(self) -> Node:
        return self._calculation(("*", "/"), self._factor)

    def _calculation(self, known_signs: tuple[str, str], part: Callable[[], Node]) -> Node:
        nodes, signs = [part()], []
        while token := self._take(*known_signs):
            signs.append(token.text)
            nodes.append(part())
        if not signs:
            return nodes[0]
        for node in nodes:
            self._expect(node, "number")
        return self._node(nodes[0].position, "number", values.calculation(signs, nodes))

    def _factor(self) -> Node:
        token = self._next
        if self._take("-"):
            node = self._expect(self._nested(self._factor), "number")
            zero = Node("0", token.position, "number", values.constant(0))
            negated = values.calculation(["-"], [zero, node])
            return replace(self._node(token.position, "number", negated), is_literal=node.is_literal)
        if self._take("("):
            node = self._nested(self._any)
            self._close(")", token)
            whole = self._node(token.position, node.kind, node.value)
            return replace(whole, is_literal=node.is_literal)
        if token.kind not in ("number", "text", "name", "column"):
            self._unexpected("; a list can only follow `in`" if token.text == "[" else "")
        self._at += 1
        if token.kind in ("number", "text") or token.text in _CONSTANTS:
            return self._literal(token)
        if token.kind == "name" and self._next.text == "(":
            return self._call(token)
        name = token.text.strip("`")
        self.columns.add(name)
        return self._node(token.position, "column", values.column(name))

    def _literal(self, token: Token) -> Node:
        if token.kind == "text":
            value, kind = unquoted(token.text), "text"
        elif token.kind == "number":
            value, kind = (int if token.text.isdigit() else float)(token.text), "number"
        else:
            value = _CONSTANTS[token.text]
            kind = "null" if value is None else "truth"
        return Node(token.text, token.position, kind, values.constant(value), is_literal=True)

    def _call(self, token: Token) -> Node:
        name = token.text
        if name not in values.FUNCTIONS:
            raise FilterSyntaxError(no_function(name, values.FUNCTIONS), token.position, len(name))
        opened = self._next
        self._at += 1
        arguments: list[Node] = []
        while self._next.text != ")":
            arguments.append(self._nested(self._any))
            if not self._take(","):
                break
        self._close(")", opened)
        num_wanted, kind, _ = values.FUNCTIONS[name]
        whole = self._node(token.position, kind, values.call(name, arguments))
        if len(arguments) != num_wanted:
            message = f"`{name}` takes {num_wanted} value{'s' * (num_wanted > 1)}, not {len(arguments)}"
            raise FilterSyntaxError(message, whole.position, len(whole.text))
        if name != "is_null":
            for argument in arguments:
                self._expect(argument, "text")
        if name == "matches":
            return replace(whole, value=values.call(name, [arguments[0], _pattern(arguments[1])]))
        return whole


def _pattern(node: Node) -> Node:
    """The second argument of `matches`, compiled once."""
    if not node.is_literal:
        raise FilterSyntaxError("the pattern of `matches` must be a quoted text", node.position, len(node.text))
    try:
        return replace(node, value=values.constant(compiled(node.value({}))))
    except ValueError as error:
        raise FilterSyntaxError(f"this pattern cannot be used: {error}", node.position, len(node.text)) from error
