"""Checks the syntax of chat templates in the way that transformers 5.23 compiles them."""

from __future__ import annotations

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dpo_recipes.errors import RecipeError, Where


class GenerationTag(Extension):
    """The tag `{% generation %}` of transformers, which marks the assistant's text and produces no output."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it this way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements in the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def parse_template(text: str, file: str) -> nodes.Template:
    """The syntax tree of a template; `file` is named in errors. Raises `RecipeError` R320."""
    # A sandbox is used because compiling evaluates constant expressions, and the author of a template may be unknown.
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", GenerationTag])
    try:
        tree = environment.parse(text)
        environment.compile(text)  # finds filters and tests that do not exist, which parsing does not
    except TemplateSyntaxError as error:
        line = dict(enumerate(text.splitlines(), 1)).get(error.lineno, "")
        column = len(line) - len(line.lstrip()) + 1
        raise RecipeError.of(
            "R320",
            f"the chat template has a syntax error: {error.message}",
            where=Where(file, error.lineno, column, max(1, len(line.strip())), line),
            fix="correct this line of the template",
        ) from error
    except RecursionError as error:
        raise RecipeError.of(
            "R320",
            "the chat template is nested too deeply",
            where=Where(file),
            why="tags or brackets are nested hundreds of levels deep, or one expression has hundreds of parts",
            fix="split it into several `{% set %}` lines",
        ) from error
    return tree
