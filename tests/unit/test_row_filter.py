"""The language of `filter:`: which rows it keeps, which errors it raises, and that other syntax is refused."""

from __future__ import annotations

import datetime
import math
import random
import string
import time
from decimal import Decimal
from typing import Any

import pytest

from dpo_recipes.recipe.row_filter import FilterSyntaxError, FilterTypeError, parse

ROW: dict[str, Any] = {
    "score_chosen": 8.0,
    "score_rejected": 6,
    "prompt": "Write a short poem",
    "lang": "en",
    "tags": ["poetry", "short"],
    "meta": {"lang": "de", "source": {"name": "web"}, "nothing": None},
    "my column": 3,
    "true": "a column of that name",
    "a.b": 1,
    "a": {"b": 2, "c": 4},
    "none": None,
    "nan": math.nan,
    "ok": True,
    "csv_number": "12.5",
    "csv_other": "9",
    "csv_empty": "",
    "csv_true": "True",
    "day": datetime.date(2024, 5, 17),
    "price": Decimal("2.50"),
    "empty": [],
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # comparisons and arithmetic
        ("score_chosen - score_rejected >= 1", True),
        ("score_chosen - score_rejected >= 2.5", False),
        ("score_chosen == 8", True),
        ("score_chosen != 8", False),
        ("1 < score_rejected <= 6 < score_chosen", True),
        ("1 < score_rejected < 6", False),
        ("2 + 3 * 4 == 14", True),
        ("(2 + 3) * 4 == 20", True),
        ("10 - 3 - 2 == 5", True),
        ("12 / 4 / 3 == 1", True),
        ("-score_rejected < -5", True),
        ("2 - -1 == 3", True),
        ("1e3 == 1000 and .5 == 0.5", True),
        ("price * 2 == 5", True),
        ("lang < 'fr'", True),
        ("day >= '2024-05-01'", True),
        # in
        ("lang in ['en', \"de\"]", True),
        ("lang in ['fr',]", False),
        ("lang not in ['fr', 'it']", True),
        ("score_rejected in [-1, 6]", True),
        ("csv_other in [9]", True),
        ("lang in []", False),
        ("'poem' in prompt", True),
        ("'Poem' not in prompt", True),
        ("'short' in tags", True),
        ("'long' not in tags", True),
        ("lang in empty", False),
        # logic: `and` binds more than `or`, `not` more than `and`
        ("ok", True),
        ("not ok", False),
        ("csv_true", True),
        ("not not csv_true", True),
        ("ok or none and none", True),
        ("(ok or none) and none", False),
        ("not none and ok", True),
        ("not lang == 'fr'", True),
        ("ok == true and ok != False", True),
        ("csv_true == True", True),
        ("ok or missing", True),  # as in Python, operands that are not needed are not evaluated
        # columns
        ("meta.lang == 'de'", True),
        ("meta.source.name == 'web'", True),
        ("`my column` == 3", True),
        ("`true` != 'x'", True),
        ("a.b == 1 and a.c == 4", True),  # a column with the whole name comes before an object's part
        ("none.anything == null", True),
        # functions
        ("len(lang) == 2 and len(tags) == 2 and len(meta) == 3", True),
        ("words(prompt) == 4", True),
        ("lower(prompt) == 'write a short poem'", True),
        ("contains(prompt, 'short')", True),
        ("contains(lower(prompt), lower('POEM'))", True),
        ("startswith(prompt, 'Write') and endswith(prompt, 'poem')", True),
        ("startswith(prompt, 'write')", False),
        (r"matches(prompt, '^\w+ a\b')", True),
        (r"matches(prompt, '(?i)POEM$')", True),
        (r"matches(prompt, '\d')", False),
        # null, NaN, and results computed from them
        ("none == null", True),
        ("none != None", False),
        ("null != lang", True),
        ("is_null(nan) and is_null(none) and is_null(meta.nothing)", True),
        ("is_null(missing) and missing == null", True),
        ("is_null(lang)", False),
        ("none == 3", False),
        ("none != 3", False),
        ("nan < 3 or nan >= 3", False),
        ("not none > 3", True),
        ("none in ['a']", False),
        ("none not in ['a']", False),
        ("none in ['a', null]", True),
        ("none not in ['a', null]", False),
        ("lang not in ['a', null]", True),
        ("'a' in none", False),
        ("none + 1 > 0", False),
        ("score_chosen / 0 > 0", False),
        ("is_null(score_chosen / 0)", True),
        ("len(none) < 5", False),
        ("contains(none, 'a')", False),
        # numbers that a CSV file contains as texts
        ("csv_number > 3", True),
        ("csv_number == 12.5", True),
        ("csv_number - csv_other == 3.5", True),
        ("csv_number > csv_other", True),  # as texts, "12.5" comes before "9"
        ("csv_other < 12 < csv_number", True),
        ("csv_empty > 3 or csv_empty < 3 or csv_empty != 3", False),
        ("csv_empty == ''", True),
        ("csv_empty < csv_number", False),
        ("csv_empty", False),
        ("lang == 3", False),
        ("lang != 3", True),
        ("csv_number == '12.50'", False),
        # texts
        (r"'a\'b' == " + '"a' + "'" + 'b"', True),
        (r"len('\\') == 1 and len('\n') == 1 and len('\d') == 2", True),
        ("  lang\n  ==\t'en' ", True),
    ],
)
def test_a_filter_keeps_the_rows_it_describes(expression: str, expected: bool) -> None:
    assert parse(expression).keeps(ROW) is expected


def test_the_columns_of_a_filter_are_known() -> None:
    found = parse("meta.lang == 'x' and (`my column` > len(prompt) or is_null(meta.lang)) and lang in ['true']")
    assert found.columns == {"meta.lang", "my column", "prompt", "lang"}
    assert parse("1 < 2").columns == frozenset()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("scroe > 1", "there is no column `scroe`; the row has score_chosen, "),
        ("meta.language == 'en'", "there is no column `meta.language`"),
        ("lang.name == 'en'", "there is no column `lang.name`"),
        ("lang.__class__ == 'en'", "there is no column `lang.__class__`"),
        ("prompt < 3", "`prompt` is the text 'Write a short poem' and `3` is 3: `<` does not fit them"),
        ("tags == 'a'", "`tags` is a list"),
        ("meta == 'a'", "`meta` is an object"),
        ("ok < 3", "`ok` is true and `3` is 3: `<` does not fit them"),
        ("lang in meta", "`meta` is an object: `in` does not fit them"),
        ("score_chosen in prompt", "`score_chosen` is 8.0"),
        ("lang + 1 > 0", "`lang` is the text 'en', not a number"),
        ("ok + 1 > 0", "`ok` is true, not a number"),
        ("-tags > 0", "`tags` is a list, not a number"),
        ("lang", "`lang` is the text 'en', neither true nor false"),
        ("ok and score_chosen", "`score_chosen` is 8.0, neither true nor false"),
        ("lower(score_chosen) == 'a'", "`score_chosen` is 8.0, but `lower` needs a text"),
        ("len(score_chosen) == 1", "`len` needs a text"),
        ("words(tags) == 1", "`tags` is a list, but `words` needs a text"),
        ("(score_chosen + 1) * lang > 1", "`lang` is the text 'en', not a number"),
        ("huge * 1.5 > 1", "with `1.5` the number becomes too large"),
        ("matches(long, 'a')", "`matches` accepts texts of up to 100,000 characters, not 100,001"),
    ],
)
def test_a_row_that_a_filter_cannot_be_evaluated_on_is_named(expression: str, message: str) -> None:
    with pytest.raises(FilterTypeError) as caught:
        parse(expression).keeps({**ROW, "huge": 10**400, "long": "a" * 100_001})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "marked", "message"),
    # `marked` has the faulty part between » and «.
    [
        ("x »=« 3", "=", "`=` is not known here; write `==`"),
        ("x > 1 »&&« y > 2", "&&", "write `and`"),
        ("»!«x", "!", "write `not`"),
        ("x > 1 »AND« y", "AND", "write `and`"),
        ("x »is« null", "is", "write `is_null(...)`"),
        ("x »**« 2 > 1", "**", "the operators are `+ - * /`"),
        ("x »%« 2 == 1", "%", "the operators are `+ - * /`"),
        ("»lenght«(x) > 1", "lenght", "there is no function `lenght`; did you mean `len`?"),
        ("»frobnicate«(x)", "frobnicate", "the functions are len, words, "),
        ("»prompt.lower«() == 'a'", "prompt.lower", "write `lower(prompt)`"),
        ("x == »'abc«", "'abc", "the quote ' is not closed"),
        ("»`x == 3«", "`x == 3", "the quote ` is not closed"),
        ("»(«x == 3", "(", "`(` is not closed"),
        ("x in »[«1, 2", "[", "`[` is not closed"),
        ("»len(x, y)« > 3", "len(x, y)", "`len` takes 1 value, not 2"),
        ("»contains(x)«", "contains(x)", "`contains` takes 2 values, not 1"),
        ("x == 3»)«", ")", "`)` is not expected here"),
        ("x in (1», «2)", ",", "write a list in square brackets"),
        ("x in [»y«]", "y", "a list can contain only numbers, texts, true, false and null"),
        ("x not »3«", "3", "only `in` can follow `not`"),
        ("x »<« null", "<", "`<` cannot be used with null"),
        ("»x + 1«", "x + 1", "is a number, not true or false; compare it with something"),
        ("x == 1 and »len(x)«", "len(x)", "is a number, not true or false"),
        ("not »'a'«", "'a'", "is a text, not true or false"),
        ("x - »'a'« > 1", "'a'", "is a text, not a number"),
        ("x + »(y == 1)« > 1", "(y == 1)", "is true or false, not a number"),
        ("lower(»3«) == 'a'", "3", "is a number, not a text"),
        ("x in »3«", "3", "is a number, not a text"),
        ("»3rd« == 1", "3rd", "put it in backquotes"),
        ("x == 1 »y« == 2", "y", "join two conditions with `and` or `or`"),
        ("matches(x, »'('«)", "'('", "this pattern cannot be used: missing )"),
        ("matches(x, »lower('a')«)", "lower('a')", "must be a quoted text"),
        ("x ==» «", "", "something is missing at the end"),
        ("» «", " ", "the filter is empty"),
    ],
)
def test_a_syntax_error_has_its_place(expression: str, marked: str, message: str) -> None:
    position = expression.index("»")
    text = expression.replace("»", "").replace("«", "")
    if not marked:
        text = text.rstrip()
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text)
    assert message in caught.value.message
    assert caught.value.position == position
    assert text[position : position + caught.value.length] == marked


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "__import__('os').system('true')",
        "().__class__",
        "'a'.__class__",
        "prompt.__class__()",
        "lambda: 1",
        "lambda x: x",
        "[x for x in y]",
        "{'a': 1}",
        "x[0] == 1",
        "f'{x}'",
        "(x := 1)",
        "x if y else z",
        "eval('1')",
        "x; y",
        "x == 1 # no",
        "x @ y",
        "`x\\` == '",
        "\0",
        "",
        "(" * 1500,
        "(" * 900 + "x" + ")" * 900,
        "not " * 450 + "x",
        "-" * 1500 + "1 > 0",
        "lower(" * 300 + "x" + ")" * 300 + " == ''",
        "x == 1 and " * 200 + "x == 1",
        "x" * 100_000,
        "matches(x, '" + "(" * 1900 + "')",
        "matches(x, 'a{99999999999999999999}')",
    ],
)
def test_other_syntax_is_refused(expression: str) -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse(expression)
    assert 0 <= caught.value.position <= len(expression)
    assert caught.value.length >= 1


def test_the_longest_and_deepest_filters_work() -> None:
    assert parse("(" * 50 + "1 < 2" + ")" * 50).keeps({})
    assert parse("not " * 50 + "ok").keeps({"ok": True})
    assert parse("lower(" * 50 + "x" + ")" * 50 + " == 'a'").keeps({"x": "A"})
    assert parse("0" + "+x" * 990 + " == 990").keeps({"x": 1})
    assert parse("ok" + " and ok" * 285).keeps({"ok": True})
    assert parse("1" + " < x" * 1 + " < 3" + " < 4 < 5" * 200).keeps({"x": 2}) is False


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a*)*", "((a+)?)*b", r"(\w+\s?){2,}$", "(?:x|a+)*b", "([^()]+)+b"])
def test_patterns_with_exponential_time_are_refused(pattern: str) -> None:
    with pytest.raises(FilterSyntaxError, match="repeats a repeat"):
        parse(f"matches(x, '{pattern}')")


@pytest.mark.parametrize(
    "pattern", ["a+b+", r"(\d+)\.", r"(foo|bar)+", r"(\w++ )+", r"[(a+)]+", r"\(a+\)+", r"(\d{3}-)+", "(a+)?b*", "{,"]
)
def test_ordinary_patterns_are_accepted(pattern: str) -> None:
    started = time.monotonic()
    parse(f"matches(x, '{pattern}')").keeps({"x": "a" * 30 + "!"})
    assert time.monotonic() - started < 1


def test_random_texts_raise_nothing_but_syntax_errors() -> None:
    draw = random.Random(7)
    pieces = [
        *["and", "or", "not", "in", "null", "true", "len", "matches", "is_null", "x", "meta.y", "`a b`", "3", "1.5e3"],
        *[
            "'t'",
            '"u"',
            "'",
            '"',
            "`",
            "(",
            ")",
            "[",
            "]",
            ",",
            "==",
            "!=",
            "<",
            ">=",
            "+",
            "-",
            "*",
            "/",
            "=",
            ".",
            " ",
        ],
        *["\\", "\n", "é", "\0", "٣", "'(a|b'", "𝒳", "\ud800"],
    ]
    num_read = misplaced = 0
    for _ in range(20_000):
        if draw.random() < 0.8:
            text = draw.choice(["", " "]).join(draw.choices(pieces, k=draw.randint(0, 9)))
        else:
            text = "".join(draw.choices(string.printable, k=draw.randint(0, 30)))
        try:
            read = parse(text)
        except FilterSyntaxError as error:
            misplaced += not 0 <= error.position <= len(text) or error.length < 1
            continue
        num_read += 1
        for value in (None, 3, "3", "text", [1, "t"], {"y": 2}, True):
            try:
                read.keeps({"x": value, "meta": {"y": value}, "a b": value})
            except FilterTypeError:
                continue
    assert not misplaced
    assert num_read > 100  # the random texts include valid filters
