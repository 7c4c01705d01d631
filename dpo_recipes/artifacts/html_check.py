"""Checks that an HTML report can be opened in a browser: no scripts, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_FORBIDDEN_TAGS = {"script", "iframe", "frame", "object", "embed", "applet", "base", "form", "link", "foreignobject"}
_ADDRESSES = {"href", "src", "srcset", "xlink:href", "action", "formaction", "data", "poster", "background", "ping"}
_IN_STYLE = re.compile(r"@import|expression\s*\(|url\(\s*['\"]?(?!data:image/|#)", re.IGNORECASE)


def find_active_content(text: str) -> str | None:
    """What a page would execute or load; None if there is nothing."""
    parser = _Checker()
    parser.feed(text)
    parser.close()
    return parser.fault


class _Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.fault: str | None = None
        self._is_in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_in_style = tag == "style"
        if tag in _FORBIDDEN_TAGS:
            self._found(f"it has the tag <{tag}>")
        for name, value in attrs:
            self._check_attribute(tag, name, value or "")

    def handle_endtag(self, tag: str) -> None:
        self._is_in_style = False

    def handle_data(self, data: str) -> None:
        if self._is_in_style and _IN_STYLE.search(data):
            self._found("its style loads a file")

    def _check_attribute(self, tag: str, name: str, value: str) -> None:
        address = re.sub(r"[\s\x00-\x1f]", "", value).lower()
        if name.startswith("on"):
            self._found(f"<{tag}> has the script `{name}`")
        elif name == "http-equiv" and address == "refresh":
            self._found("it leads to another page by itself")
        elif name == "style" and _IN_STYLE.search(value):
            self._found(f"the style of <{tag}> loads a file")
        elif name in _ADDRESSES and not _is_harmless(tag, address):
            self._found(f"<{tag}> has the address `{value[:60]}`")

    def _found(self, fault: str) -> None:
        self.fault = self.fault or fault


def _is_harmless(tag: str, address: str) -> bool:
    """Whether an address is a picture in the page itself, a place in it, or a link that a person has to follow."""
    if address.startswith(("data:image/png", "data:image/jpeg", "#")):
        return True
    has_no_scheme = ":" not in address.partition("/")[0]
    return tag == "a" and (address.startswith(("https://", "http://")) or has_no_scheme)
