"""Checks that an HTML report can be opened in a browser: no scripts, and nothing is loaded from elsewhere.

Python's parser and browsers disagree about broken HTML: where a comment ends, or the text of a style. So what they
could see differently is refused: comments, and `<` inside a tag or a style.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

_PAGE_TAGS = """html head meta title style body main header footer nav section article div span p pre code br hr wbr
h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table caption thead tbody tfoot tr th td figure figcaption details summary
a b i em strong small sub sup abbr blockquote img"""
_PICTURE_TAGS = """svg g defs desc text tspan path line polyline polygon rect circle ellipse clippath lineargradient
stop"""
_TAGS = {*_PAGE_TAGS.split(), *_PICTURE_TAGS.split()}
"""What the reports of dpo-recipe consist of, and a few more that only show text."""
_ADDRESSES = {"href", "src", "srcset", "xlink:href", "action", "formaction", "data", "poster", "background", "ping"}
_IN_STYLE = re.compile(r"@import|expression\s*\(|url\(\s*['\"]?(?!data:image/|#)|<|\\", re.IGNORECASE)
_DOCTYPE = re.compile(r"\s*<!doctype html>", re.IGNORECASE)


def find_active_content(text: str) -> str | None:
    """What a page would execute or load, or could hide; None if there is nothing."""
    text = _DOCTYPE.sub("", text, count=1)
    if "<!" in text or "<?" in text:
        return "it has a comment or a declaration, in which tags could be hidden"
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
        if tag not in _TAGS:
            self._found(f"it has the tag <{tag[:40]}>")
        if "<" in (self.get_starttag_text() or "")[1:]:
            self._found(f"there is a `<` inside the tag <{tag}>")
        for name, value in attrs:
            self._check_attribute(tag, name, value or "")

    def handle_endtag(self, tag: str) -> None:
        self._is_in_style = False

    def handle_data(self, data: str) -> None:
        if self._is_in_style and _IN_STYLE.search(data):
            self._found("its style loads a file or has characters that no style needs")

    def _check_attribute(self, tag: str, name: str, value: str) -> None:
        address = re.sub(r"[\s\x00-\x1f]", "", value).lower()
        if name.startswith("on"):
            self._found(f"<{tag}> has the script `{name}`")
        elif name == "http-equiv" and address != "content-security-policy":  # which only forbids
            self._found(f"<{tag}> changes how the browser treats the page")
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
