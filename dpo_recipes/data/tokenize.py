"""Tokenizes preference rows with the chat template and writes Arrow files, which training maps into memory."""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.cache import content_key, get_or_build
from dpo_recipes.data.checks.rows import CODES_OF_CONTENT, RowChecks
from dpo_recipes.data.encode import Encoded, Encoder, Texts
from dpo_recipes.data.fit_length import TokenizedRow, fit
from dpo_recipes.data.lengths import distributions
from dpo_recipes.data.prepare import RowSplits
from dpo_recipes.data.render import render_row
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import Row
from dpo_recipes.data.store import RowFile
from dpo_recipes.data.subsets import NO_SUBSET, subset_names
from dpo_recipes.data.template import Renderer
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.schema.data import Data
from dpo_recipes.run_dir import write_json

TOKENS_VERSION = 6
"""Increased when the same rows produce other files than before, so that older cache entries are not used."""
PROMPT, ANSWERS = "prompt_ids", "answer_ids"
"""The columns of the token ids of a row: of its prompt, and of each of its answers. The chosen answer of a pair comes
before the rejected one."""
CONTEXT = "answer_context"
"""The column of the runs of each answer's tokens that are not trained on, as a flat list of starts and ends; empty for
an answer of one turn."""
LABEL = "label"
"""The column that says whether the answer of a labelled row is good; absent for other rows."""
WEIGHT, MARGIN = "weight", "margin"
"""The columns of the factor of a row's loss, and of how much better the chosen answer of a pair is; absent if no source
has these numbers."""
SUBSET_NUMBER = "subset"
"""The column of the index of a row's subset in `TokenizedSplits.subsets`, NO_SUBSET for a row without one; absent if no
row of the split has one."""
ROW = "row"
"""The column of a row's index in its split."""
_BATCH = 256
_REASONS = {"D420": "template_failed", "D429": "turns_not_found"}
"""The reason of rows that cannot be rendered, by the code of the error."""


@dataclass
class TokenizedSplits:
    """The token ids of each split that is not empty, as a `datasets.Dataset` with the columns PROMPT, ANSWERS, CONTEXT,
    ROW, LABEL for labelled rows, and WEIGHT, MARGIN and SUBSET_NUMBER if a source has them."""

    datasets: dict[str, Any]
    rows: dict[str, RowFile]
    reports: dict[str, SplitReport]
    lengths: dict[str, np.ndarray]
    """Tokens of the prompt and of each of the K answers of every row before truncation, of shape [rows, 1 + K]; zeros
    for a row that the template refused."""
    warnings: list[Finding]
    """Findings about the rows, including errors if these are not raised."""
    key: str
    is_cached: bool = False
    subsets: tuple[str, ...] = ()
    """The names of the subsets of all splits."""

    def for_trainer(self, split: str) -> Any:
        """The columns of a split for the trainer, and the index of each row, for errors that name it.

        The column CONTEXT is only included if an answer of the split has context, and SUBSET_NUMBER only for held-out
        rows: training does not depend on it.
        """
        context = [CONTEXT] if self.reports[split].masked_rows else []
        dataset = self.datasets[split]
        names = (LABEL, WEIGHT, MARGIN) if split == "train" else (LABEL, WEIGHT, MARGIN, SUBSET_NUMBER)
        extras = [name for name in names if name in dataset.column_names]
        return dataset.select_columns([PROMPT, ANSWERS, *context, *extras, ROW])

    def where(self, split: str, place: int) -> str:
        """The location of a row in its source: `rows.jsonl:12`."""
        return self.rows[split][place].where

    def row(self, split: str, index: int) -> Row:
        """The row at an index of a split's dataset."""
        return self.rows[split][int(self.datasets[split][index][ROW])]


def tokenize_splits(
    splits: RowSplits,
    tokenizer: Any,
    renderer: Renderer,
    data: Data,
    *,
    accepted: Collection[str] = (),
    raise_errors: bool = True,
) -> TokenizedSplits:
    """Tokenize every split, or use the cached result.

    Findings whose code is `accepted` are left out. Raises `DataError` D408 (a row is too long with `overlong: error`),
    D409 (every row dropped), D414 (labelled training rows of one class), D420 (the template fails), D429 (the turns of
    an answer cannot be distinguished), D430 (no pair with different answers), and with `raise_errors` every other error
    that `RowChecks` finds.
    """
    from datasets import Dataset

    key = content_key(
        TOKENS_VERSION,
        splits.key,
        renderer.template.text,
        renderer.template_kwargs,
        tokenizer.backend_tokenizer.to_str(),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        [data.max_length, data.overlong, data.train_on_turns],
    )
    folder, is_cached = get_or_build("tokens", key, lambda partial: _build(partial, splits, tokenizer, renderer, data))
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    reports = {name: SplitReport(**report) for name, report in stored["splits"].items()}
    findings = [finding for finding in splits.warnings if finding.code not in accepted]
    findings += one_class(reports["train"])
    for name, report in reports.items():
        found = _judged(report, accepted, is_carved=name != "train" and getattr(data, name).is_carved)
        report.findings = [finding.to_json() for finding in found]
        findings += found
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors and raise_errors:
        raise DataError(*errors)
    return TokenizedSplits(
        {name: Dataset.from_file(str(folder / f"{name}.arrow")) for name in splits.rows},
        splits.rows,
        reports,
        {name: np.load(folder / f"{name}.lengths.npy", mmap_mode="r") for name in splits.rows},
        findings,
        key,
        is_cached,
        subset_names(splits.reports),
    )


def one_class(report: SplitReport) -> list[Finding]:
    """The error D414 if all training rows have the same label."""
    good, bad = report.desirable, report.undesirable
    if good is None or bad is None or (good and bad):
        return []
    present, absent = ("good", "bad") if good else ("bad", "good")
    return [
        Finding(
            "D414",
            f"all {good + bad:,} labelled training rows have {present} answers",
            why=f"the objective learns from the contrast of good and bad answers, and there are no {absent} ones",
            fix=f"add {absent} answers to `data.train`" + (", or write `objective: {kind: sft}`" if good else ""),
            at=("data", "train"),
        )
    ]


def _judged(report: SplitReport, accepted: Collection[str], *, is_carved: bool) -> list[Finding]:
    """The findings of a split that are not accepted.

    A split of the training rows can be so small that all its rows have a fault by chance, so faults of contents are
    only warnings there; the training rows decide whether the run ends.
    """
    findings = [Finding.from_json(plain) for plain in report.findings if plain["code"] not in accepted]
    if not is_carved:
        return findings
    return [replace(found, severity="warning") if found.code in CODES_OF_CONTENT else found for found in findings]


def _build(folder: Path, splits: RowSplits, tokenizer: Any, renderer: Renderer, data: Data) -> None:
    reports: dict[str, SplitReport] = {}
    subsets = subset_names(splits.reports)
    encoder = Encoder(tokenizer, renderer.template.text)
    for name, rows in splits.rows.items():
        report = reports[name] = deepcopy(splits.reports[name])
        report.subsets = dict.fromkeys(report.subsets, 0)
        checks = RowChecks(tokenizer, renderer, name, data.max_length, lambda place, rows=rows: rows[place].where)
        write_split(folder / f"{name}.arrow", rows, Tokenizer(encoder, renderer, checks, data), report, subsets)
        report.findings = [finding.to_json() for finding in checks.findings()]
    write_json(folder / "report.json", {"splits": {name: asdict(report) for name, report in reports.items()}})


Fitted = tuple[int, TokenizedRow, TokenizedRow | None]
"""The index of a row, its whole tokens, and the truncated ones, or None if the row is dropped."""
_Rendered = tuple[int, Row, Texts]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection, which takes a third of the time with millions of small lists."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_split(
    path: Path, rows: RowFile, tokenize: Tokenizer, report: SplitReport, subsets: Sequence[str] = ()
) -> None:
    """Tokenize rows into an Arrow file, and write the rows' lengths before truncation into a file beside it.

    Fills `report`. `subsets` are the names that SUBSET_NUMBER refers to. Raises `DataError` D408, D409, D420, D429,
    D430.
    """
    import pyarrow as pa

    schema = _schema(rows[0], has_subsets=bool(report.subsets))
    numbers = {None: NO_SUBSET} | {name: number for number, name in enumerate(subsets)}
    lengths: list[np.ndarray] = []
    uncut = np.zeros((len(rows), 1 + len(rows[0].answers)), np.int32)
    with _no_garbage_collection(), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in tokenize.batches(rows, report):
            gc.collect(0)  # templates create a few cycles; collect them before this batch moves to an older generation
            kept: list[tuple[int, TokenizedRow]] = []
            for place, whole, fitted in batch:
                uncut[place] = whole.lengths
                if fitted is not None:
                    kept.append((place, fitted))
                    report.mask(fitted.num_context)
                    report.count_label(fitted.label)
                    report.count_subset(fitted.subset)
            lengths.append(np.array([row.lengths for _, row in kept], np.int32).reshape(-1, uncut.shape[1]))
            columns = {name: [getattr(row, name) for _, row in kept] for name in schema.names if name != ROW}
            columns[ROW] = [place for place, _ in kept]
            if SUBSET_NUMBER in columns:
                columns[SUBSET_NUMBER] = [numbers[row.subset] for _, row in kept]
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema))
    np.save(path.with_suffix(".lengths.npy"), uncut)
    _summarize(np.concatenate(lengths), report, tokenize.checks)


def _schema(row: Row, *, has_subsets: bool) -> Any:
    """The schema of a split with rows like `row`."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    label = {LABEL: pa.bool_()} if row.label is not None else {}
    numbers = {name: pa.float32() for name in (WEIGHT, MARGIN) if getattr(row, name) is not None}
    subset = {SUBSET_NUMBER: pa.int32()} if has_subsets else {}
    lists = {PROMPT: ids, ANSWERS: pa.list_(ids), CONTEXT: pa.list_(ids)}
    return pa.schema({**lists, **label, **numbers, **subset, ROW: pa.int64()})


def _summarize(lengths: np.ndarray, report: SplitReport, checks: RowChecks) -> None:
    report.rows_kept = len(lengths)
    report.step("tokenize", report.rows_kept)
    if not report.rows_kept:
        all_dropped = Finding(
            "D409",
            "every row was dropped",
            why=json.dumps(report.dropped),
            fix="raise `data.max_length`, or choose another `data.overlong`",
        )
        found = checks.findings()
        equal = [finding for finding in found if finding.code == "D430"]
        raise DataError(*(equal or [all_dropped, *(finding for finding in found if finding.code == "D491")]))
    prompts, answers = int(lengths[:, 0].sum(dtype=np.int64)), int(lengths[:, 1:].sum(dtype=np.int64))
    report.tokens = prompts * max(1, lengths.shape[1] - 1) + answers
    report.lengths = distributions(lengths)


class Tokenizer:
    """Converts rows to token ids that fit `max_length`."""

    def __init__(self, encoder: Encoder, renderer: Renderer, checks: RowChecks, data: Data) -> None:
        self._renderer = renderer
        self._encoder = encoder
        self.checks = checks
        self._data = data

    def batches(self, rows: RowFile, report: SplitReport) -> Iterator[list[Fitted]]:
        """Yield every row that the template renders, in batches.

        While threads of the tokenizer encode one batch, the next one is read and rendered. Raises `DataError` D408, and
        D420 and D429 unless bad rows may be dropped.
        """
        with ThreadPoolExecutor(1) as encoder:
            before: tuple[list[_Rendered], Future[list[Encoded]]] | None = None
            for start in range(0, len(rows), _BATCH):
                places = range(start, min(start + _BATCH, len(rows)))
                rendered = self._render(places, rows.rows(places), report)
                running = encoder.submit(self._encoder.encode, [texts for *_, texts in rendered])
                if before is not None:
                    yield self._fitted(before[0], before[1].result(), report)
                before = rendered, running
            if before is not None:
                yield self._fitted(before[0], before[1].result(), report)

    def _render(self, places: Iterable[int], rows: Iterable[Any], report: SplitReport) -> list[_Rendered]:
        placed = zip(places, rows, strict=True)
        return [(place, row, texts) for place, row in placed if (texts := self._texts(row, report)) is not None]

    def _fitted(self, rendered: list[_Rendered], encodings: list[Encoded], report: SplitReport) -> list[Fitted]:
        batch: list[Fitted] = []
        for (place, row, texts), encoded in zip(rendered, encodings, strict=True):
            self.checks.look(place, row, texts, encoded)
            whole = TokenizedRow(
                encoded.prompt_ids,
                encoded.answer_ids,
                encoded.answer_context,
                row.label,
                row.weight,
                row.margin,
                row.subset,
            )
            ends = self._encoder.first_token_id, self._encoder.last_token_id
            fitted = fit(whole, row.where, self._data.max_length, self._data.overlong, report, keep=ends)
            if fitted is not None and self.checks.is_equal(row.where, whole, fitted):
                report.drop("equal_tokens", row.where)
                fitted = None
            batch.append((place, whole, fitted))
        return batch

    def encode(self, rows: Sequence[Row]) -> Iterator[tuple[Texts, Encoded]]:
        """The rendered texts and ids of rows, before truncation. Raises `DataError` D420."""
        texts = [render_row(row, self._renderer) for row in rows]
        yield from zip(texts, self._encoder.encode(texts), strict=True)

    def _texts(self, row: Row, report: SplitReport) -> Texts | None:
        """The rendered texts of a row, or None if it cannot be rendered and the recipe allows to drop it."""
        try:
            return render_row(row, self._renderer, finds_context=self._data.train_on_turns != "all")
        except DataError as error:
            failed = sum(report.dropped.get(reason, 0) for reason in _REASONS.values()) + 1
            if self._data.on_bad_row == "error" and failed > self._data.max_bad_fraction * report.rows_in:
                raise
            report.drop(_REASONS[error.findings[0].code], row.where)
            return None
