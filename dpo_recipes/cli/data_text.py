"""Prints the output of `dpo-recipe data`. Every mark is also a character, so that it is readable without colour."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from dpo_recipes.cli.displacement_text import describe_displacement
from dpo_recipes.data.inspect.lengths import worth_showing
from dpo_recipes.data.report import describe_conversion
from dpo_recipes.errors import Finding

_BAR_WIDTH = 40
_CUT_SHOWN = 120  # shown characters of a longer truncated text, half at each end
_WAYS = ("drop", "truncate_prompt_start", "truncate_completion_end")
_STYLES = {"prompt": "dim", "chosen": "green", "completion": "green", "rejected": "yellow", "cut": "red strike"}


class DataText:
    """Writes an inspection, the object that `--json` prints, as text."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = sys.stdout if file is None else file
        self._encoding = getattr(self._file, "encoding", None) or "utf-8"
        is_unicode = self._encoding.lower().replace("-", "") in ("utf8", "utf16", "utf32")
        self._block, self._spark = ("█", "▁▂▃▄▅▆▇█") if is_unicode else ("#", ".:-=+*#@")
        self._trained, self._special, self._cut = (
            ("⟦⟧", "⟨⟩", "✂") if is_unicode else ("[]", "{}", "cut:")
        )  # the first two are pairs of brackets, the third introduces a truncated text
        self._newline = "↵" if is_unicode else "\\n"
        self._console = Console(file=self._file, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def write(self, inspection: dict[str, Any]) -> None:
        """Write the whole inspection."""
        self._line(
            f"{inspection['recipe']}: template `{inspection['chat_template']}`, tokenizer of {inspection['model']}, "
            f"max_length {inspection['max_length']}, overlong: {inspection['overlong']}"
        )
        for name, split in inspection["splits"].items():
            self._line()
            self._split(name, split)
        if inspection["displacement"] is not None:
            self._line()
            for line in describe_displacement(inspection["displacement"]):
                self._line(line)
        for plain in inspection["warnings"]:
            self._line()
            self._line(Finding.from_json(plain).render(), "yellow")
        shown = [row for split in inspection["splits"].values() for row in split["shown"]]
        if shown:
            self._legend()
        for row in shown:
            self._row(row)

    def _split(self, name: str, split: dict[str, Any]) -> None:
        *parts, whole = split["lengths"]
        of_answers = " in both sequences" if len(parts) > 2 else ""
        self._line(f"{name}: {split['rows_kept']:,} {whole}s, {split['tokens']:,} tokens{of_answers}", "bold")
        self._line(f"  {'rows':<9} " + " -> ".join(f"{step['step']} {step['rows']:,}" for step in split["steps"]))
        for conversion in split["conversions"]:
            self._line(f"  {'converted':<9} {describe_conversion(conversion)}")
        for source in split["sources"]:
            if source["unread"]:
                unread = ", ".join(f"{name} {count:,}" for name, count in source["unread"].items())
                self._line(f"  {'not read':<9} {Path(source['path']).name} ({source['format']}): {unread}")
        for reason, count in split["dropped"].items():
            self._line(f"  {'dropped':<9} {reason} {count:,}{_places(split['examples'].get(reason, ()))}")
        for part, count in split["truncated"].items():
            self._line(f"  {'truncated':<9} {part} {count:,}")
        if split["desirable"] is not None:
            self._line(f"  {'labels':<9} {split['desirable']:,} good answers, {split['undesirable']:,} bad ones")
        if split["subsets"]:
            counts = [f"{name} {count:,}" for name, count in split["subsets"].items()]
            num_others = split["rows_kept"] - sum(split["subsets"].values())
            counts += [f"{num_others:,} {whole}s without a subset"] if num_others else []
            self._line(f"  {'subsets':<9} {', '.join(counts)}")
        if split["masked_rows"]:
            answers = f"{split['masked_tokens']:,} tokens in the answers of {split['masked_rows']:,} {whole}s"
            self._line(f"  {'masked':<9} {answers}: turns of the user or a tool, which are not trained on")
        self._lengths(split)
        self._limits(split["at_max_length"], f"{whole}s")
        self._longest(split["longest"], [*parts, whole])
        self._look(split)

    def _lengths(self, split: dict[str, Any]) -> None:
        columns = ("mean", "median", "p95", "p99", "max")
        *parts, whole = split["lengths"]
        self._line()
        self._line(f"  {'tokens':<24}" + "".join(f"{column:>8}" for column in columns))
        for name, values in split["lengths"].items():
            self._line(f"  {name:<24}" + "".join(f"{values[column]:>8,}" for column in columns))
        for name, values in split["uncut_lengths"].items():
            if values != split["lengths"][name]:
                self._line(f"  {name + ', untruncated':<24}" + "".join(f"{values[c]:>8,}" for c in columns))
        self._line()
        for name in parts:
            histogram = split["histograms"][name]
            spark = self._sparkline(histogram)
            self._line(f"  {name:<10}{histogram['edges'][0]:>5,} |{spark}| {histogram['max']:,} tokens")
        limit = next(line["max_length"] for line in split["at_max_length"] if line["is_recipe"])
        self._line()
        self._line(f"  tokens of a {whole} before truncation")
        self._bars(split["histograms"][whole], limit)

    def _sparkline(self, histogram: dict[str, Any]) -> str:
        most = max(histogram["counts"])
        levels = len(self._spark) - 1
        return "".join(self._spark[-(-count * levels // most)] if count else " " for count in histogram["counts"])

    def _bars(self, histogram: dict[str, Any], limit: int) -> None:
        edges, most = histogram["edges"], max(histogram["counts"])
        for at, count in enumerate(histogram["counts"]):
            is_last = at + 1 == len(edges)
            low = min(edges[at], histogram["min"]) if at == 0 else edges[at]
            bounds = f"{low:,}-{histogram['max'] if is_last else edges[at + 1] - 1:,}"
            bar = self._block * -(-count * _BAR_WIDTH // most)
            holds_limit = edges[at] <= limit and (is_last or limit < edges[at + 1])
            mark = f"  <- max_length {limit:,}" if holds_limit else ""
            self._line(f"  {bounds:>13} {bar}{' ' * bool(bar)}{count:,}{mark}")

    def _limits(self, lines: list[dict[str, Any]], unit: str) -> None:
        self._line()
        self._line(f"  {'':<27}" + "".join(f"{way:>26}" for way in _WAYS))
        self._line(f"  {'max_length':<12}{'too long':>15}" + f"{unit + '   tokens':>26}" * len(_WAYS))
        for line in worth_showing(lines):
            total = line["drop"][unit] + line["too_long"]
            too_long = f"{line['too_long']:,} ({line['too_long'] / total:.1%})"
            left = "".join(f"{line[way][unit]:>17,}{line[way]['share']:>9.1%}" for way in _WAYS)
            name = f"{line['max_length']:,}{' (here)' if line['is_recipe'] else ''}"
            self._line(f"  {name:<12}{too_long:>15}{left}")

    def _longest(self, rows: list[dict[str, Any]], names: list[str]) -> None:
        width, column = max(20, *(len(row["where"]) for row in rows)), max(8, *map(len, names)) + 1
        self._line()
        self._line(f"  {'longest rows':<{width}}" + "".join(f"{name:>{column}}" for name in names))
        for row in rows:
            numbers = "".join(f"{row[name]:>{column},}" for name in names)
            self._line(f"  {row['where']:<{width}}{numbers}  {row['fate']}")

    def _look(self, split: dict[str, Any]) -> None:
        prompts, unit = split["prompts"], "pairs" if "pair" in split["lengths"] else "rows"
        scripts = ", ".join(f"{name} {counts['letters']:,}" for name, counts in split["scripts"].items())
        num_shared = prompts["shared_with_train"]
        shared = f"; {unit} whose prompt is also in train: {num_shared:,}" if num_shared else ""
        self._line()
        if split["answers"]:
            self._line(f"  answers   {_compare(split['answers'])}")
        self._line(f"  prompts   {prompts['distinct']:,} distinct{shared}")
        self._line(f"  letters   {scripts or 'none'}")
        for observation in split["observations"]:
            self._line(f"  check     {observation['text']}{_places(observation['places'])}", "yellow")

    def _legend(self) -> None:
        trained, special = (f"{pair[0]}...{pair[1]}" for pair in (self._trained, self._special))
        self._line()
        self._line(
            f"trained on: {trained}   special token: {special}   truncated: {self._cut}   line break: {self._newline}"
        )
        self._line(
            "other tokens are read but not in the loss: the prompt, and turns of the user or a tool in an answer"
        )

    def _row(self, row: dict[str, Any]) -> None:
        counts = ", ".join(
            f"{part} {row['tokens'][part]:,}"
            + f" ({row['context'][part]:,} not trained on)" * bool(row["context"][part])
            + f" (truncated {row['cut'][part]:,})" * bool(row["cut"][part])
            for part in row["tokens"]
        )
        label = "" if row["label"] is None else f", {'good' if row['label'] else 'bad'} answer"
        self._line()
        self._line(f"{row['split']}, {row['where']}{label}: tokens of {counts}", "bold")
        for part in row["tokens"]:
            self._line(f"--- {part}", "bold")
            self._console.print(self._tokens(part, row[part]))

    def _tokens(self, part: str, pieces: list[dict[str, Any]]) -> Text:
        """The tokens of a part; underlines distinguish neighbouring tokens."""
        text = Text()
        is_open = False
        for at, piece in enumerate(pieces):
            if (piece["mark"] == "trained") != is_open:
                is_open = not is_open
                text.append(self._trained[0 if is_open else 1], "bold")
            if piece["mark"] == "cut":
                if at == 0 or pieces[at - 1]["mark"] != "cut":
                    text.append(self._cut_text(pieces[at:]), _STYLES["cut"])
                continue
            shown = self._printable(piece["text"]).replace("\n", self._newline + "\n")
            style = _STYLES["prompt" if piece["mark"] == "context" else part] + (
                " bold" if piece["special"] else " underline" if is_open and at % 2 else ""
            )
            text.append(f"{self._special[0]}{shown}{self._special[1]}" if piece["special"] else shown, style)
        return text.append(self._trained[1], "bold") if is_open else text

    def _cut_text(self, pieces: list[dict[str, Any]]) -> str:
        """The run of truncated tokens at the start of `pieces`; only both ends of it if it is long."""
        end = next((at for at, piece in enumerate(pieces) if piece["mark"] != "cut"), len(pieces))
        text = self._printable("".join(piece["text"] for piece in pieces[:end])).replace("\n", self._newline)
        if len(text) > _CUT_SHOWN:
            text = f"{text[: _CUT_SHOWN // 2]} ... {text[-_CUT_SHOWN // 2 :]}"
        count = sum(len(piece["ids"]) for piece in pieces[:end])
        return f"{self._cut}{count:,} tokens: {text}{self._cut.rstrip(':')}"

    def _line(self, text: str = "", style: str = "") -> None:
        self._console.print(Text(self._printable(text), style))

    def _printable(self, text: str) -> str:
        """The text without control characters, in the encoding of the output."""
        if not text.isascii() or not text.isprintable():
            text = "".join(map(_visible, text))
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)


def _compare(answers: dict[str, float]) -> str:
    """The mean lengths of the answers, and for pairs how often either is longer."""
    if "completion_mean" in answers:
        return f"{answers['completion_mean']:,} tokens on average"
    return (
        f"chosen {answers['chosen_mean']:,} tokens on average, rejected {answers['rejected_mean']:,}; chosen is longer "
        f"in {answers['chosen_longer']:.0%} of pairs, rejected in {answers['rejected_longer']:.0%}"
    )


def _places(places: Iterable[str]) -> str:
    joined = ", ".join(places)
    return f" ({joined})" if joined else ""


@lru_cache(maxsize=10_000)
def _visible(char: str) -> str:
    """The escape sequence of a control or format character; any other character unchanged."""
    if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf") or char in "\u200c\u200d":
        return char
    return char.encode("unicode_escape").decode()
