"""`dpo-recipe data` with a real tokenizer and no weights: what it says is what the trainer gets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, assert_printable, assert_readable
from tiny import make_tokenizer
from typer.testing import CliRunner, Result

from dpo_recipes.cli import app
from dpo_recipes.cli.data_text import DataText
from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.data.inspect.rows import show_rows
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.data.tokenize import render_row, tokenize_splits
from dpo_recipes.errors import DataError, DpoRecipeError, RecipeError
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source

HH = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_rlhf_harmless_base.jsonl.gz"
Rows = list[dict[str, Any]]
EVIL = "<script>alert(1)</script> \x1b[2J\u202e&amp; äöü 🙂"
ROWS: Rows = [
    *(
        {"prompt": f"Question {i}?", "chosen": f"A long and kind answer, number {i}.", "rejected": "No, never."}
        for i in range(12)
    ),
    {"prompt": "Question 3?", "chosen": "A long and kind answer, number 3.", "rejected": "No, never."},
    {"prompt": "Question 4?", "chosen": EVIL, "rejected": "No."},
    {"prompt": "Почему?", "chosen": "Потому что так надо.", "rejected": "Не знаю, право."},
    {"prompt": "Why " * 60 + "?", "chosen": "Because of that.", "rejected": "I do not know."},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture
def recipe(tmp_path: Path, tokenizer_folder: Path) -> Path:
    """A recipe over ROWS."""
    _write(tmp_path / "pairs.jsonl", ROWS)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"schema: 1\nname: looked-at\nmodel: {{path: '{tokenizer_folder}', adapter: {{kind: lora, r: 4}}}}\n"
        "data: {train: [{path: pairs.jsonl}], max_length: 96}\nchat_template: chatml\n"
    )
    return path


def _write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if isinstance(result.exception, DpoRecipeError):
        raise result.exception
    return result


def _json(*arguments: object) -> dict[str, Any]:
    return json.loads(_run(*arguments, "--json").stdout)


def test_json_is_one_object_with_the_report_and_more(recipe: Path) -> None:
    inspection = _json(recipe)
    train = inspection["splits"]["train"]
    assert (inspection["recipe"], inspection["chat_template"], inspection["max_length"]) == ("looked-at", "chatml", 96)
    assert (train["rows_in"], train["rows_kept"], train["truncated"]) == (16, 16, {"prompt_start": 1})
    assert [step["step"] for step in train["steps"]] == ["read", "tokenize"]
    assert train["lengths"]["pair"]["max"] == 96 < train["uncut_lengths"]["pair"]["max"]
    assert train["longest"][0]["where"] == "pairs.jsonl:16"
    assert train["longest"][0]["fate"] == "cut"
    assert {row["fate"] for row in train["longest"][2:]} == {"whole"}
    assert train["prompts"] == {"distinct": 14, "repeated": 2, "shared_with_train": 0}
    assert train["scripts"]["Cyrillic"]["rows"] == 1
    assert train["shown"] == []


def test_peculiar_rows_are_named_with_their_places(recipe: Path) -> None:
    observations = {seen["kind"]: seen for seen in _json(recipe)["splits"]["train"]["observations"]}
    places = {kind: seen["places"] for kind, seen in observations.items()}
    assert places["duplicate"] == ["pairs.jsonl:13"]
    assert sorted(places["repeated_prompt"]) == ["pairs.jsonl:4", "pairs.jsonl:5"]
    assert places["control"] == places["short_rejected"] == ["pairs.jsonl:14"]
    assert places["script"] == ["pairs.jsonl:15"]
    assert "chosen is longer in" in observations["length_bias"]["text"]


def test_subsets_are_counted_after_rows_were_dropped(recipe: Path, tmp_path: Path) -> None:
    kinds = ["chat", "code", "chat", None]
    rows = [{**ROWS[n], "kind": kind} for n, kind in enumerate(kinds)] + [{**ROWS[15], "kind": "long"}]
    _write(recipe.parent / "pairs.jsonl", rows)
    columns = ("--set", "data.train[0].columns={subset: kind}", "--set", "data.overlong=drop")
    assert _json(recipe, *columns)["splits"]["train"]["subsets"] == {"chat": 2, "code": 1, "long": 0}
    page = tmp_path / "page.html"
    assert (
        "  subsets   chat 2, code 1, long 0, 1 pairs without a subset\n"
        in _run(recipe, *columns, "--html", page).stdout
    )
    assert "<caption>Subsets</caption>" in page.read_text(encoding="utf-8")
    assert '<th scope="row">(none)</th><td>1</td><td>25.0%</td>' in page.read_text(encoding="utf-8")


def test_a_column_of_many_values_is_shown_in_the_recipe(recipe: Path) -> None:
    _write(recipe.parent / "pairs.jsonl", [{**ROWS[0], "prompt": f"{n}?", "kind": f"k{n}"} for n in range(101)])
    text = recipe.read_text().replace("{path: pairs.jsonl}", "{path: pairs.jsonl, columns: {subset: kind}}")
    recipe.write_text(text)
    with pytest.raises(DataError) as caught:
        _run(recipe)
    (found,) = caught.value.findings
    assert found.code == "D415"
    assert found.where is not None
    assert (found.where.line, found.where.column) == (4, text.splitlines()[3].index("kind") + 1)


def test_answers_that_cutting_makes_equal_are_found(recipe: Path) -> None:
    same = "Well, this begins in the same way " * 4
    rows = [*ROWS[:4], {"prompt": "Hm?", "chosen": same + "and ends well.", "rejected": same + "and ends badly."}]
    _write(recipe.parent / "pairs.jsonl", rows)
    inspection = _json(recipe, "--set", "data.overlong=truncate_completion_end", "--set", "data.max_length=64")
    train = inspection["splits"]["train"]
    assert (train["dropped"], train["examples"]["equal_tokens"]) == ({"equal_tokens": 1}, ["pairs.jsonl:5"])
    assert "1 of 5 pairs (train)" in next(found["what"] for found in inspection["warnings"] if found["code"] == "D430")


def test_errors_are_shown_together_with_the_rows(recipe: Path) -> None:
    rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    _write(recipe.parent / "pairs.jsonl", [{"prompt": rendered, "chosen": "Yes, hello.", "rejected": "No, never."}])
    result = _run(recipe, "--show", 1)
    assert result.exit_code == 4
    assert "error[D425]: prompts are already rendered" in result.stdout
    assert "--- chosen" in result.stdout


@pytest.mark.parametrize("overlong", ["drop", "truncate_prompt_start", "truncate_completion_end"])
def test_the_line_of_this_limit_says_what_happened(recipe: Path, overlong: str) -> None:
    train = _json(recipe, "--set", f"data.overlong={overlong}", "--set", "data.max_length=60")["splits"]["train"]
    (line,) = [line for line in train["at_max_length"] if line["is_recipe"]]
    assert line["too_long"] == train["dropped"].get("overlong", 0) + sum(train["truncated"].values()) > 0
    assert line[overlong]["pairs"] == train["rows_kept"]
    (whole,) = [line for line in train["at_max_length"] if line["max_length"] == 4096]
    assert whole["drop"] == {"pairs": 16, "share": 1.0}
    uncut = _json(recipe, "--set", "data.max_length=4096")["splits"]["train"]
    assert line[overlong]["share"] == round(train["tokens"] / uncut["tokens"], 4)
    assert train["uncut_lengths"] == uncut["lengths"]


@pytest.mark.parametrize(
    ("overlong", "max_length"), [("truncate_prompt_start", 60), ("truncate_completion_end", 60), ("drop", 2000)]
)
def test_shown_rows_are_the_trainers_tokens(tmp_path: Path, overlong: Any, max_length: int) -> None:
    """All text is there once, and what is not marked as cut is exactly what the Arrow file holds."""
    path = _write(tmp_path / "pairs.jsonl", [*ROWS, {"prompt": "x", "chosen": "é🙂 " * 90, "rejected": "日本 " * 9}])
    data = Data(train=[Source(path=str(path))], overlong=overlong, max_length=max_length)
    tokenizer = make_tokenizer()
    chat = apply_template(tokenizer, "chatml", add_special_tokens=False)
    pairs = tokenize_splits(load_rows(data, seed=1), tokenizer, chat.renderer, data)
    rows = list(show_rows(pairs, tokenizer, chat.renderer, "train", 100))
    assert len(rows) == len(pairs.datasets["train"]) > 10
    for index, row in enumerate(rows):
        texts = render_row(pairs.row("train", index), chat.renderer)
        prompt, *answers = row.parts.values()
        for answer, text in zip(answers, texts.answers, strict=True):
            assert "".join(piece.text for piece in [*prompt, *answer]) == text
        tokens = pairs.datasets["train"][index]
        columns = [tokens["prompt_ids"], *tokens["answer_ids"]]
        for part, column in zip(row.parts.values(), columns, strict=True):
            assert [number for piece in part if piece.mark != "cut" for number in piece.ids] == column
        assert {piece.mark for piece in prompt} <= {"prompt", "cut"}
        assert {piece.mark for answer in answers for piece in answer} <= {"trained", "cut"}
        assert {piece.text for piece in (*prompt, *answers[0]) if piece.special} <= {"<|im_start|>", "<|im_end|>"}


def test_shown_rows_are_spread_over_the_split(recipe: Path) -> None:
    shown = _json(recipe, "--show", 3)["splits"]["train"]["shown"]
    assert [row["where"] for row in shown] == ["pairs.jsonl:1", "pairs.jsonl:9", "pairs.jsonl:16"]
    assert shown[2]["cut"]["prompt"] > 0
    assert shown[2]["tokens"]["prompt"] + max(shown[2]["tokens"]["chosen"], shown[2]["tokens"]["rejected"]) == 96
    assert len(_json(recipe, "--show", 99)["splits"]["train"]["shown"]) == 16


def test_the_text_needs_no_colour(recipe: Path) -> None:
    out = _run(recipe, "--show", 16).stdout
    assert "train: 16 pairs" in out
    assert "truncated prompt_start 1" in out
    assert "96 (here)" in out
    assert "⟨<|im_start|>⟩user↵\nQuestion 0?⟨<|im_end|>⟩↵\n" in out
    assert "⟦A long and kind answer, number 0.⟨<|im_end|>⟩↵\n⟧" in out
    assert re.search(r"✂\d+ tokens: .* \.\.\. ", out)
    assert "█" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[2J\\u202e&amp; äöü 🙂" in out


def test_the_text_in_ascii_loses_nothing(recipe: Path) -> None:
    """A stream that takes ASCII alone, as under a C locale without UTF-8."""

    class Ascii(StringIO):
        encoding = "ascii"

    file = Ascii()
    DataText(file).write(_json(recipe, "--show", 16))
    out = file.getvalue()
    assert out.isascii()
    assert "[A long and kind answer, number 0.{<|im_end|>}\\n\n]" in out
    assert "####" in out
    assert "\\u041f\\u043e\\u0447" in out


def test_a_stream_without_unicode_does_not_fail(recipe: Path) -> None:
    program = Path(sys.executable).with_name("dpo-recipe")
    environment = {"PYTHONIOENCODING": "ascii", "DPO_RECIPE_CACHE": str(recipe.parent / "cache"), "PATH": "/usr/bin"}
    for flags in ([], ["--json"]):
        done = subprocess.run(
            [str(program), "data", str(recipe), "--show", "16", *flags], capture_output=True, env=environment
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.isascii()
        assert b"tokenizer " in done.stderr


def test_prompts_leave_room_for_their_answers(recipe: Path, tmp_path: Path) -> None:
    objective = "objective={kind: rloo, rewards: [{rule: json}], max_new_tokens: 60}"
    shown = ("--set", objective, "--show", 16, "--html", tmp_path / "page.html")
    split = _json(recipe, *shown)["splits"]["train"]
    assert split["conversions"] == [{"from": "pairs", "to": "prompts", "rows": 16, "made": 16}]
    assert split["lengths"]["prompt"]["max"] == 36, "96 tokens less 60 of an answer"
    assert split["truncated"] == {"prompt_start": 1}
    assert split["answers"] == {}
    assert all(row["tokens"].keys() == {"prompt"} for row in split["shown"])
    text = _run(recipe, *shown).stdout
    assert "max_length 36" in text
    assert "train: 16 prompts" in text
    assert "Training prompts" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_held_out_prompts_of_the_training_rows_are_counted(recipe: Path) -> None:
    path = _write(recipe.parent / "held_out.jsonl", [ROWS[0], {**ROWS[1], "prompt": "Another one?"}])
    held_out = ("--set", f"data.eval.sources=[{{path: '{path}'}}]")
    inspection = _json(recipe, *held_out, "--split", "eval", "--show", 1)
    assert list(inspection["splits"]) == ["eval"]
    assert inspection["splits"]["eval"]["prompts"] == {"distinct": 2, "repeated": 0, "shared_with_train": 1}
    assert "D490" in [finding["code"] for finding in inspection["warnings"]]
    assert "pairs whose prompt is also in train: 1" in _run(recipe, *held_out).stdout


def test_a_split_that_is_not_there_is_a_fault_of_usage(recipe: Path) -> None:
    result = _run(recipe, "--split", "test")
    assert result.exit_code == 2
    assert "no split `test`, only train" in result.stderr


def test_faults_of_recipe_data_and_page_are_errors(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="R101"):
        _run("nowhere")
    with pytest.raises(RecipeError, match="U402"):
        _run(recipe, "--html", recipe.parent / "no" / "page.html")
    with pytest.raises(DataError, match="D408"):
        _run(recipe, "--set", "data.overlong=error")
    with pytest.raises(DataError, match="D421"):
        _run(recipe, "--set", "chat_template=llama3")


class _Page(HTMLParser):
    """Tags that are open, and all texts; fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "line", "rect", "path", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "path") or tag in self.open[-1:]:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_escapes_all_data_and_loads_nothing(recipe: Path) -> None:
    path = recipe.parent / "page.html"
    _run(recipe, "--show", 16, "--html", path)
    html = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(html)
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert "<script>" in page.text
    assert "default-src 'none'" in html
    assert page.tags.count("svg") == 4
    assert page.tags.count("article") == 16
    assert "pairs.jsonl:16" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_is_readable_at_all_widths_and_in_print(recipe: Path, tmp_path: Path) -> None:
    path = recipe.parent / "page.html"
    _run(recipe, "--show", 4, "--html", path)
    page = path.read_text(encoding="utf-8")
    assert_readable(page, tmp_path)
    assert_printable(page, tmp_path)


@pytest.mark.skipif(not HH.exists(), reason="the hh-rlhf file is not part of the project")
def test_real_dialogues(recipe: Path) -> None:
    inspection = _json(
        recipe, "--set", f"data.train[0].path={HH}", "--set", "data.on_bad_row=drop", "--set", "data.max_length=4000"
    )
    train = inspection["splits"]["train"]
    assert train["rows_in"] == 1800 == train["rows_kept"] + sum(train["dropped"].values())
    assert train["scripts"]["Latin"]["rows"] > 1700
    (line,) = [line for line in train["at_max_length"] if line["is_recipe"]]
    assert line["truncate_prompt_start"]["pairs"] == train["rows_kept"]


def test_memory_does_not_hold_the_rows(tmp_path: Path) -> None:
    """Lengths and hashes of 4,000 rows of 2 kB are 200 kB; their texts would be 8 MB."""
    import tracemalloc

    from dpo_recipes.data.inspect.splits import inspect_splits

    rows = [{"prompt": f"{i} " * 300, "chosen": f"Yes {i} " * 60, "rejected": f"No {i} " * 60} for i in range(4000)]
    data = Data(train=[Source(path=str(_write(tmp_path / "p.jsonl", rows)))], eval=HeldOut(count=1))
    tokenizer = make_tokenizer()
    chat = apply_template(tokenizer, "chatml", add_special_tokens=False)
    pairs = tokenize_splits(load_rows(data, seed=1), tokenizer, chat.renderer, data)
    tracemalloc.start()
    inspection = inspect_splits(pairs, data.max_length, None, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert inspection["train"].report.rows_kept > 3000
    assert peak < 4_000_000
