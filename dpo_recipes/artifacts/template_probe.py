"""Renders templates of an unknown author in a process of its own, with limits on time and memory.

Run as a program: it reads {"name": "text"} from stdin, writes the name of each template before it tries it, and at the
end a JSON object with the first fault, if there is one. It imports nothing but Jinja.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from typing import Any

CPU_S = 2
"""Processor seconds for all templates of an artifact together."""
MEMORY_BYTES = 2**30
MAX_OUTPUT = 2_000_000
"""Characters that a template may make of the longest conversation below, which has fewer than 10,000."""
_TURN = [{"role": "user", "content": "What is one plus one?"}, {"role": "assistant", "content": "Two."}]
_SYSTEM = {"role": "system", "content": "Answer briefly."}
_REASONED = {"role": "assistant", "content": "Two.", "reasoning_content": "1 + 1 = 2", "thinking": "1 + 1 = 2"}
_TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
_CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": _TURN[:1], "add_generation_prompt": True},
    {"messages": _TURN},
    {"messages": [_SYSTEM, *_TURN, _TURN[0], _REASONED]},
    {"messages": _TURN[:1], "tools": [_TOOL], "add_generation_prompt": True},
    {"messages": [_SYSTEM, *_TURN * 60]},
]
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def main() -> None:
    """The program."""
    templates = json.load(sys.stdin)
    for kind, limit in ((resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of the address space
            resource.setrlimit(kind, (limit, limit))
    for name, text in templates.items():
        print(json.dumps({"name": name}), flush=True)
        fault = probe(text)
        if fault is not None:
            print(json.dumps({"name": name, "fault": fault[0], "why": fault[1]}), flush=True)
            return


def probe(text: str) -> tuple[str, str] | None:
    """The first fault of a template, as its kind and reason; None if there is none."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    environment = _environment()
    try:
        tree = environment.parse(text)
        if (why := _forbidden(tree)) is not None:
            return "sandbox", why
        render = environment.from_string(text).render
    except TemplateSyntaxError as error:
        return "syntax", f"line {error.lineno}: {error.message}"
    except (RecursionError, MemoryError) as error:
        return "limit", f"it cannot be compiled: {type(error).__name__}"
    for conversation in _CONVERSATIONS:
        values = {"tools": None, "documents": None, "add_generation_prompt": False, **_TOKENS, **conversation}
        try:
            output = render(values)
        except SecurityError as error:
            return "sandbox", str(error)
        except (MemoryError, RecursionError) as error:
            return "limit", f"{type(error).__name__} while it was rendered"
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RuntimeError):
            continue  # a template may refuse conversations, such as those that do not alternate
        if len(output) > MAX_OUTPUT:
            return "limit", f"it makes {len(output):,} characters of a conversation of a few messages"
    return None


def _environment() -> Any:
    """A sandbox as that of transformers 5.23 (`utils/chat_template_utils.py`)."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from dpo_recipes.recipe.jinja_syntax import GenerationTag

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: "2026-01-01"
    return environment


def _forbidden(tree: Any) -> str | None:
    """Why the text of a template cannot be allowed, whatever it is rendered with."""
    from jinja2 import nodes

    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        return f"line {node.lineno}: it loads another template"
    for node in tree.find_all(nodes.Getattr):
        if node.attr.startswith("_"):
            return f"line {node.lineno}: it reads the private attribute `{node.attr}`"
    for node in tree.find_all(nodes.Const):
        if isinstance(node.value, str) and node.value.startswith("__") and node.value.endswith("__"):
            return f"line {node.lineno}: it names the private attribute `{node.value}`"
    return None


if __name__ == "__main__":
    main()
