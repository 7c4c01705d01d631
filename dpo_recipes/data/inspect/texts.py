"""Counts prompts, scripts and unusual characters in the texts of many rows, in one pass and little memory."""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from dpo_recipes.data.rows import Message, Row, answer_names
from dpo_recipes.data.split import prompt_hash

MAX_PLACES = 3
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NO_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
_RENAMED = {
    **{"CJK": "Han", "IDEOGRAPHIC": "Han", "FULLWIDTH": "Latin"},
    **{"HIRAGANA": "Kana", "KATAKANA": "Kana", "KATAKANA-HIRAGANA": "Kana", "HALFWIDTH": "Kana"},
}
# The first words in the names of letters without a script: ª, º, ʰ, µ, 𝐀, ⁿ.
_NO_SCRIPT = {"", "FEMININE", "MASCULINE", "MODIFIER", "MICRO", "MATHEMATICAL", "SUPERSCRIPT", "SUBSCRIPT"}


def _byte_of_char() -> dict[str, int]:
    """The byte of each character in Windows-1252; browsers map its five unused bytes to control characters."""
    pairs = ((bytes([byte]).decode("cp1252", "replace"), byte) for byte in range(0x80, 0x100))
    return {chr(byte) if char == "\ufffd" else char: byte for char, byte in pairs}


_BYTE_OF_CHAR = _byte_of_char()
_HIGH_RUN = re.compile("[" + re.escape("".join(_BYTE_OF_CHAR)) + "]{2,}")
# First bytes of two-byte characters that nearly always show garbled text: accented Latin, Cyrillic. Other pairs of
# bytes are probably intended: "É”" in "CAFÉ”" is also valid UTF-8.
_USUAL_LEADS = {0xC2, 0xC3, 0xC4, 0xC5, 0xD0, 0xD1}
_UNSPACED = {"Han", "Japanese", "Kana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"}


def looks_garbled(text: str) -> bool:
    """Whether a part of a text looks like UTF-8 that was read as Windows-1252 ("cafÃ©"); it may still be intended."""
    if text.isascii():
        return False
    for run in _HIGH_RUN.findall(text):
        data = bytes(_BYTE_OF_CHAR[char] for char in run)
        if (data[0] in _USUAL_LEADS or len(data) >= 3) and _is_utf8(data):
            return True
    return False


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=100_000)
def script_of(char: str) -> str | None:
    """The Unicode script of a letter, from its name; None for other characters and letters without a script."""
    if not char.isalpha() or "\u2100" <= char < "\u2150":  # symbols that count as letters: Ω for ohm, ℝ
        return None
    name = unicodedata.name(char, "").split(" ")[0]
    return None if name in _NO_SCRIPT else _RENAMED.get(name, name.capitalize())


def letters_by_script(text: str) -> Counter[str]:
    """The number of letters of each script in a text; Han and Kana count as Japanese if they are mixed."""
    if text.isascii():
        number = len(text.encode().translate(None, _NO_LETTERS))
        return Counter({"Latin": number} if number else {})
    counts: Counter[str] = Counter()
    for char, number in Counter(text).items():
        script = script_of(char)
        if script is not None:
            counts[script] += number
    if counts["Kana"] * 10 > counts["Han"]:  # Chinese texts contain an occasional の
        counts["Japanese"] = counts.pop("Kana") + counts.pop("Han", 0)
    return +counts


@dataclass
class Places:
    """The number of rows in which something was seen, and the locations of the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        """Count one row."""
        self.count += 1
        if len(self.first) < MAX_PLACES:
            self.first.append(where)


class TextScan:
    """Scans every row that is trained on; keeps 16 bytes of each."""

    def __init__(self) -> None:
        self._prompts = array("Q")
        self._rows = array("Q")
        self.letters: Counter[str] = Counter()
        self.rows_by_script: dict[str, Places] = {}
        self.seen: dict[str, Places] = {}
        """Rows with an unusual text, by kind: `control`, `replacement`, `garbled`, and for each answer `short_` with
        its name, such as `short_chosen`."""

    def look(self, row: Row) -> None:
        """Count one row."""
        prompt = prompt_hash(row.prompt)
        seen = json.dumps([prompt, row.answers, row.label, row.tools, row.template_kwargs, row.columns], sort_keys=True)
        self._prompts.append(prompt)
        self._rows.append(int.from_bytes(blake2b(seen.encode(), digest_size=8).digest(), "big"))
        text = "\n".join(message["content"] for message in row.messages)
        names = answer_names(len(row.answers))
        letters = letters_by_script(text)
        if letters:
            self.letters.update(letters)
            self.rows_by_script.setdefault(max(letters, key=letters.__getitem__), Places()).add(row.where)
        for name, is_there in {
            "control": bool(_CONTROL.search(text)),
            "replacement": "\ufffd" in text,
            "garbled": looks_garbled(text),
            **{f"short_{name}": _is_short(answer) for name, answer in zip(names, row.answers, strict=True)},
        }.items():
            if is_there:
                self.seen.setdefault(name, Places()).add(row.where)

    @property
    def prompts(self) -> np.ndarray:
        """A 64-bit hash of each row's prompt."""
        return np.frombuffer(self._prompts, np.uint64) if self._prompts else np.empty(0, np.uint64)

    @property
    def rows(self) -> np.ndarray:
        """A 64-bit hash of everything in each row that affects training."""
        return np.frombuffer(self._rows, np.uint64) if self._rows else np.empty(0, np.uint64)


def _is_short(answer: list[Message]) -> bool:
    """Whether an answer is empty or a single word and has no tool calls."""
    if any(message.get("tool_calls") for message in answer):
        return False
    content = answer[-1]["content"].strip()
    if len(content) > 30 or len(content.split()) > 1:
        return False
    return len(content) < 3 or not _UNSPACED & letters_by_script(content).keys()
