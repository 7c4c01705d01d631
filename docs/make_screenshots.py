"""Makes the pictures of reports, data page and live view in docs/images, from made-up figures. Needs Chromium.

python docs/make_screenshots.py [NAME ...]
"""

from __future__ import annotations

import inspect
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks"), str(REPOSITORY / "tests")]

from synthetic_runs import make_recipe, make_run  # noqa: E402

from dpo_recipes.cli import live_view  # noqa: E402
from dpo_recipes.cli.progress import Progress  # noqa: E402
from dpo_recipes.finished_run import open_run  # noqa: E402
from dpo_recipes.guards.base import Job  # noqa: E402
from dpo_recipes.jobs.directory import SweepDirectory  # noqa: E402
from dpo_recipes.jobs.sweep_comparison import compare_sweep  # noqa: E402
from dpo_recipes.objectives import objective_of  # noqa: E402
from dpo_recipes.recipe.dump import dump_recipe  # noqa: E402
from dpo_recipes.recipe.schema.guards import guards_of  # noqa: E402
from dpo_recipes.report.comparison_page import render_comparison  # noqa: E402
from dpo_recipes.report.html import render_run  # noqa: E402

IMAGES = REPOSITORY / "docs" / "images"
WIDTH = 1100
COLOURS = 128
"""Pictures of text need few colours, and are a quarter of the size then."""


def guarded_run(folder: Path) -> str:
    """The report of a run with a learning rate that is much too high: the guards look at its made-up rows."""
    from dpo_recipes.engine.watch import Watch

    training = {"learning_rate": 1e-3, "num_epochs": 3, "eval_steps": 20}
    recipe = make_recipe("too-fast", summary="LoRA on 800 pairs, three epochs at 1e-3", training=training)
    rows = _overtrained_rows(random.Random(0))
    job = Job(objective_of(recipe), recipe.objective, rows_per_step=8, num_eval_rows=80, chosen_tokens=60)
    watch = Watch(guards_of(recipe), job, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    watch.replay(rows)
    sample = {
        "prompt": "How long does a hard-boiled egg need?",
        "base": "An egg can be boiled in many ways, and the time depends on its size. Ten minutes is usual.",
        "tuned": "Eggs! Eggs take time, time is what eggs take.",
        "chosen": "Ten minutes.",
        "rejected": "That depends on many things.",
    }
    measured = {key: value for key, value in rows[-1].items() if key.startswith("eval_")}
    run = make_run(
        folder, recipe, steps=300, metrics={"train_loss": 0.12, **measured}, samples=[sample], guards=watch.report()
    )
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return render_run(open_run(run.path))


def _overtrained_rows(draw: random.Random) -> list[dict[str, Any]]:
    """The training pairs are learned by heart, and the held-out ones get worse after a third of the steps."""
    rows: list[dict[str, Any]] = []
    for step in range(0, 301, 5):
        share = step / 300
        margin = 9 * share
        if step:
            accuracy = min(1.0, 0.5 + 0.9 * share + draw.gauss(0, 0.02))
            train = {
                "loss": 0.69 * (1 - share) ** 3 + 0.01 + abs(draw.gauss(0, 0.015)),
                "rewards/accuracies": accuracy,
                "rewards/margins": margin + draw.gauss(0, 0.2),
                "rewards/saturated": min(1.0, max(0.0, 1.6 * share - 0.4)),
                "logps/chosen": -80 - 60 * share + draw.gauss(0, 2),
                "logps/rejected": -90 - 150 * share + draw.gauss(0, 2),
                "grad_norm": 1.5 + draw.random() + (9 if step == 145 else 0),
                "learning_rate": 1e-3 * (1 - share),
            }
            rows.append({"step": step, "epoch": 3 * share, **train})
        if step % 20 == 0:
            held_out = {
                "eval_loss": 0.693 - 1.1 * share + 2.1 * share**2,
                "eval_rewards/accuracies": 0.5 + 0.5 * share - 0.38 * share**2 if step else 0.0,
                "eval_rewards/margins": margin / 6,
                "eval_logps/chosen": -82 - 55 * share,
                "eval_logps/rejected": -88 - 62 * share,
            }
            rows.append({"step": step, "epoch": 3 * share, **held_out})
    return rows


def sweep(folder: Path) -> str:
    """The report of a sweep of nine trials with two seeds: the learning rate decides, beta does not."""
    rates, betas, draw = (5e-6, 2e-5, 8e-5), (0.05, 0.1, 0.2), random.Random(1)
    grid = {"training.learning_rate": list(rates), "objective.beta": list(betas)}
    made = SweepDirectory(folder / "rate-and-beta" / "20260105T000000Z-abcdef")
    made.runs.mkdir(parents=True)
    section = {"grid": grid, "seeds": 2, "metric": "rewards/accuracies"}
    made.resolved_recipe.write_text(dump_recipe(make_recipe("rate-and-beta", sweep=section)), encoding="utf-8")
    for number, (rate, beta) in enumerate(itertools.product(rates, betas), 1):
        for seed in (42, 43):
            training = {"learning_rate": rate, "seed": seed}
            recipe = make_recipe(f"rate-and-beta-{number:03}-seed{seed}", training=training, objective={"beta": beta})
            accuracy = {5e-6: 0.62, 2e-5: 0.74, 8e-5: 0.68}[rate] + draw.gauss(0, 0.01)
            loss = 0.95 - accuracy / 2 + beta / 5
            metrics = {"eval_loss": loss, "eval_rewards/accuracies": accuracy, "eval_rewards/margins": 4 * beta}
            run = make_run(folder / "elsewhere", recipe, metrics=metrics)
            run.path.rename(made.runs / f"{number:03}-{seed - 41}")
    return render_comparison(compare_sweep(made)).replace(str(folder), "runs")


def data_page(folder: Path) -> str:
    """The page of `dpo-recipe data --html` for made-up pairs."""
    from tiny import make_tokenizer

    pairs = _pairs(random.Random(2))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    texts = [text for pair in pairs for text in pair.values()]
    make_tokenizer(texts, 1200).save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "schema: 1\nname: short-answers\nmodel: {path: ./model, adapter: {kind: lora, r: 16}}\n"
        "data: {train: [{path: pairs.jsonl}], eval: {fraction: 0.1}, max_length: 96}\nchat_template: chatml\n"
    )
    page = folder / "page.html"
    command = [sys.executable, "-m", "dpo_recipes", "data", str(recipe), "--show", "2", "--html", str(page)]
    environment = {**os.environ, "DPO_RECIPE_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return page.read_text(encoding="utf-8").replace(f"{folder}/", "")


def _pairs(draw: random.Random) -> list[dict[str, str]]:
    """Questions with a short chosen answer and a wordy rejected one."""
    subjects = ["an egg", "a loaf of bread", "a pot of rice", "a cup of tea", "a pan of soup", "a tray of biscuits"]
    questions = ["How long does {} need?", "When is {} done?", "What can go wrong with {}?", "Can I reheat {}?"]
    facts = ["Ten minutes.", "About half an hour, then let it rest.", "Watch the heat, and stir now and then.", "Yes."]
    padding = ["That depends on many things.", "There is a lot to say about this.", "People have different opinions."]
    pairs = []
    for _ in range(240):
        question = draw.choice(questions).format(draw.choice(subjects))
        context = " ".join(["I am cooking for four guests."] * draw.choice([0, 0, 0, 1, 2, 6]))
        wordy = " ".join(draw.choice(padding) for _ in range(1 + int(draw.expovariate(0.5))))
        pairs.append({"prompt": f"{context} {question}".strip(), "chosen": draw.choice(facts), "rejected": wordy})
    return pairs


def live(folder: Path) -> str:
    """The terminal during a run, as SVG."""
    from rich.console import Console

    terminal = _Terminal()
    written, sys.stderr = sys.stderr, terminal
    measured = live_view.shutil.get_terminal_size
    live_view.shutil.get_terminal_size = lambda: os.terminal_size((100, 30))  # type: ignore[assignment]
    try:
        _show_run(Progress())
    finally:
        sys.stderr, live_view.shutil.get_terminal_size = written, measured
    console = Console(record=True, width=100, file=io.StringIO(), color_system=None)
    console.print("\n".join(terminal.screen), highlight=False, markup=False)
    svg = console.export_svg(title="dpo-recipe run quickstart", unique_id="live", code_format=_without_fonts())
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _without_fonts() -> str:
    """Rich's frame of a terminal with a font of the reader's machine instead of one from the network."""
    from rich.console import Console

    frame = inspect.signature(Console.export_svg).parameters["code_format"].default
    return re.sub(r"@font-face \{\{.*?\n    \}\}", "", frame, flags=re.DOTALL).replace(
        "font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, monospace"
    )


def _show_run(progress: Progress) -> None:
    """Send the events of a run, up to three quarters of its training."""
    batch = SimpleNamespace(describe=lambda noun: f"8 {noun}s a step: 1 process × micro-batch 4 × 2 accumulated")
    batch.num_nodes = 1
    plan = SimpleNamespace(launch=SimpleNamespace(batch=batch), warnings=())
    directory = "runs/quickstart/20261128T020238Z-ee7f08"
    progress.on_event({"event": "run", "dir": directory, "plan": plan, "objective": "dpo", "resumed": False})
    for name, detail in (
        ("data", "160 training and 24 held-out pairs"),
        ("plan", "memory and time"),
        ("reference", "log-probabilities of 184 pairs"),
        ("train", "20 steps"),
    ):
        progress.on_event({"event": "stage", "name": name, "detail": detail})
    draw = random.Random(3)
    for step in range(1, 16):
        share = step / 20
        metrics = {
            "loss": 3.93 - 1.0 * share + draw.gauss(0, 0.04),
            "rewards/accuracies": min(1.0, 0.55 + 0.7 * share + draw.gauss(0, 0.03)),
            "rewards/margins": 2.9 * share + draw.gauss(0, 0.1),
            "peak_memory_bytes": 1.5 * 2**30,
        }
        speed = {"tokens_per_second": 284.0, "eta_s": 4.5 * (20 - step)}
        progress.on_event({"event": "step", "step": step, "total": 20, "metrics": metrics, **speed})


class _Terminal(io.StringIO):
    """A terminal that knows line breaks, `cursor up` and `erase below`."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines, row = [""], 0
        for part in re.split(r"(\n|\x1b\[\d+A|\x1b\[J)", self.getvalue()):
            if part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part == "\x1b[J":
                lines[row:] = [""]
            elif part.startswith("\x1b["):
                row -= int(part[2:-1])
            else:
                lines[row] += part
        return lines


PICTURES: dict[str, tuple[Callable[[Path], str], int, str]] = {
    "guards.png": (guarded_run, 1580, "section:not(#guards), footer { display: none }"),
    "comparison.png": (sweep, 2050, "section:not(#results, #effects) { display: none }"),
    "data_page.png": (data_page, 1950, ".tables, #eval { display: none }"),
    "live.svg": (live, 0, ""),
}
"""What makes each picture, the height of its part of the page, and rules that leave out other parts."""


def take(page: str, rules: str, height: int, target: Path, folder: Path) -> None:
    """Write a picture of the top of a page."""
    from PIL import Image

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "Chromium is not installed"
    source, raw = folder / "shown.html", folder / "raw.png"
    source.write_text(page.replace("</style>", f"{rules}</style>", 1), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'browser'}", f"--window-size={WIDTH},{height}", f"--screenshot={raw}"]
    subprocess.run([*command, source.as_uri()], check=True, capture_output=True, timeout=120)
    picture = Image.open(raw).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(target, optimize=True)


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        make, height, rules = PICTURES[name]
        with tempfile.TemporaryDirectory() as place:
            content = make(Path(place))
            if name.endswith(".svg"):
                (IMAGES / name).write_text(content, encoding="utf-8")
            else:
                take(content, rules, height, IMAGES / name, Path(place))
        sys.stdout.write(f"{name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
