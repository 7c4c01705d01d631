"""One command that measures on a GPU what this project claims of GPUs, in eight minutes, the most valuable first.

    python benchmarks/gpu/check.py [--output FOLDER] [--seconds 480] [--only sharing,speed] [--device cpu --tiny]

Each measurement is written to `gpu-<name of the device>.json` as soon as it is known, so that whatever ends the check
loses none of those before it. Each is a process of its own with a time limit: one that crashes or hangs costs itself
alone, and one that no longer fits into the time is left out; both are recorded with the reason. README.md says how to
take the check to a machine without a network, and `render.py` shows the results.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bootstrap
from results import Results

HERE = Path(__file__).resolve().parent
PRELOADED = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2",
    "datasets", "accelerate", "peft", "trl.trainer.dpo_trainer", "dpo_recipes.engine.train",
    "dpo_recipes.engine.dpo_trainer", "dpo_recipes.fit.planner.memory", "dpo_recipes.worker",
    "dpo_recipes.workflow", "tasks",
)  # fmt: skip
"""Loaded once; each measurement is a fork that has them already. None of them touches the GPU."""
SINGLE_PROCESS = ("fork", "fresh")
"""How a measurement's process begins: as a fork, or anew where forks cannot have the GPU."""


class Check:
    """The measurements one after the other, within the time."""

    def __init__(self, options: argparse.Namespace, results: Results, scratch: Path, deadline: float) -> None:
        from context import Context
        from device import device_of

        self.options, self.results, self.deadline = options, results, deadline
        self.context = Context(device_of(options.device), options.tiny, results, scratch)
        self.start = options.start
        self.started = time.monotonic()
        self.log = results.path.with_suffix(".log")
        self.beside: int | None = None
        """The process that predicts while others measure."""

    def run(self) -> None:
        """Run the chosen tasks."""
        import tasks

        wanted = self.options.only.split(",") if self.options.only else None
        chosen = [t for t in tasks.all_tasks(is_tiny=self.options.tiny) if wanted is None or t.part in wanted]
        self._probe(tasks.PROBE)
        try:
            if any(task.part == "memory" for task in chosen):
                self.beside = self._begin(tasks.PREDICTIONS)
            for task in chosen:
                self._try(task)
            self._await_predictions()
        finally:
            if self.beside:
                _end(self.beside)

    def _probe(self, task: Any) -> None:
        """See whether a process has the device, and whether a fork does."""
        if self._try(task) or self.start == "fresh":
            return
        self.on_message("a fork of this process cannot have the device: each measurement begins anew, and takes longer")
        self.start = "fresh"
        self._try(task)

    def _await_predictions(self) -> None:
        if self.beside:
            code = _wait(self.beside, max(1.0, self.deadline - time.monotonic()))
            self.beside = None
            if code:
                self.results.record("failures", "predictions", f"ended with {code}; the log has the reason")

    def _try(self, task: Any) -> bool:
        """Execute a task unless something speaks against it; whether it was done."""
        left = self.deadline - time.monotonic()
        absent = [name for name in task.requires if importlib.util.find_spec(name) is None]
        if absent or left < task.needs_s:
            why = (
                f"{', '.join(absent)} is not installed"
                if absent
                else f"it takes {task.needs_s:.0f} s, {left:.0f} are left"
            )
            self.results.record("skipped", task.key, why)
            self.on_message(f"{task.key}: left out: {why}")
            return False
        limit = min(task.limit_s * self.options.patience, left)
        began = time.monotonic()
        code = _wait(self._begin(task), limit)
        seconds = time.monotonic() - began
        if code is None:
            self.results.record("failures", task.key, f"killed after {seconds:.0f} s, its limit")
        elif code < 0:
            self.results.record("failures", task.key, f"ended by {signal.Signals(-code).name}")
        elif code:  # the process has recorded what was raised, unless it could not even begin
            self.results.change(lambda all_: all_.setdefault("failures", {}).setdefault(task.key, f"ended with {code}"))
        self.results.record("seconds", task.key, round(seconds, 1))
        self.on_message(f"{task.key}: {'done' if code == 0 else 'FAILED, see the log'} in {seconds:.1f} s")
        return code == 0

    def _begin(self, task: Any) -> int:
        """Start a task's process in a session of its own; its id."""
        if self.start == "fork":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, of threads that only wait
                process = os.fork()
            if not process:
                os.setsid()
                _write_to(self.log)
                os._exit(execute(task, self.context))
            return process
        command = [
            sys.executable, str(HERE / "check.py"), "--task", task.key, "--device", self.options.device,
            "--output", str(self.results.path), "--scratch", str(self.context.scratch),
            *(["--tiny"] if self.options.tiny else []),
        ]  # fmt: skip
        with self.log.open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True).pid

    def on_message(self, text: str) -> None:
        """A line for who watches."""
        print(f"[{time.monotonic() - self.started:4.0f} s] {text}", flush=True)


def execute(task: Any, context: Any) -> int:
    """Execute a task in this process, record what it raises; its exit code."""
    import tasks

    print(f"===== {task.key}", flush=True)
    try:
        tasks.execute(task, context)
    except BaseException as error:  # noqa: BLE001 - the edge of the process
        traceback.print_exc()
        words = "".join(traceback.format_exception_only(error)).strip()
        context.results.record("failures", task.key, words[-1500:])
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _write_to(log: Path) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)


def _wait(process: int, limit_s: float) -> int | None:
    """The exit code of a process, negative for a signal, or None if it was killed after its time limit."""
    end = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            _kill_group(process)  # what it has left behind
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            _end(process)
            return None
        time.sleep(0.02)


def _end(process: int) -> None:
    _kill_group(process)
    with contextlib.suppress(ProcessLookupError):  # it may not have its own group yet
        os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)


def _kill_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def preload(capability: tuple[int, int] | None = None) -> dict[str, str]:
    """Import what all measurements use; the reasons where that fails.

    bitsandbytes 0.50, which peft imports, asks torch for the GPU's capability while it is imported. That begins CUDA in
    this process, and no fork could have the GPU then: so it is given what the driver's tool says.
    """
    failures = {}
    for name in PRELOADED:
        try:
            module = importlib.import_module(name)
            if name == "torch" and capability:
                own, module.cuda.get_device_capability = module.cuda.get_device_capability, lambda *_: capability
        except Exception as error:  # noqa: BLE001 - a library that is unfit raises anything; the others are of use
            failures[name] = f"{type(error).__name__}: {error}"[:500]
            traceback.print_exc()
    if capability and "torch" not in failures:
        sys.modules["torch"].cuda.get_device_capability = own
    return failures


def environment(scratch: Path) -> dict[str, str]:
    """What all processes of the check are given: no network, caches of their own, one GPU."""
    return {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(scratch / "hf"), "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"), "TOKENIZERS_PARALLELISM": "true",
        # torch then asks the driver's library for the number of GPUs, and forks can have them.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # transformers would spread each micro-batch over all GPUs that it sees.
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
    }  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    parser.add_argument("--seconds", type=float, default=480, help="time for all tasks together")
    parser.add_argument("--only", help="comma-separated: sharing, speed, memory, resume, flex")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="try the check itself, with two-layer models")
    parser.add_argument("--wheels", type=Path, default=bootstrap.WHEELS, help="where missing packages are")
    parser.add_argument("--start", choices=SINGLE_PROCESS, default="fork", help="how each measurement's process begins")
    parser.add_argument("--patience", type=float, default=1.0, help="a factor on the limits of single measurements")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "auto":
        options.device = "cuda" if gpu_name() else "cpu"
    if options.output is None:
        options.output = HERE.parents[1] / ("build/gpu-check" if options.tiny else "benchmarks/results")
    return options


def gpu_name() -> str | None:
    """The first GPU's name, without loading torch."""
    return _ask_driver("name")


def gpu_capability() -> tuple[int, int] | None:
    """The first GPU's compute capability, without loading torch; none for what cannot be read as one."""
    major, _, minor = (_ask_driver("compute_cap") or "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _ask_driver(what: str) -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def run_one(options: argparse.Namespace) -> int:
    """The process of one task that begins anew."""
    import tasks
    from context import Context
    from device import device_of

    every = [tasks.PROBE, tasks.PREDICTIONS, *tasks.all_tasks(is_tiny=options.tiny)]
    task = next(task for task in every if task.key == options.task)
    return execute(task, Context(device_of(options.device), options.tiny, Results(options.output), options.scratch))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A request to end ends the measurement's process too."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    yield


def main() -> int:
    """Provide packages, load them, measure."""
    options = parse()
    if options.task:
        return run_one(options)
    started = time.monotonic()
    name = gpu_name() if options.device == "cuda" else "tiny" if options.tiny else platform.machine()
    results = Results(options.output / f"gpu-{_slug(name or 'unknown')}.json")
    results.path.unlink(missing_ok=True)
    results.path.with_suffix(".log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _interruptible():
        scratch = Path(folder)
        os.environ.update(environment(scratch))
        results.change(lambda content: content.update(_header(options)))
        provided = bootstrap.provide(options.wheels, scratch / "packages")
        results.change(lambda content: content.update(packages=provided))
        print("\n".join(_describe(provided)), flush=True)
        failures = preload(gpu_capability() if options.device == "cuda" else None)
        if failures:
            results.change(lambda content: content.update(imports_failed=failures))
        _measure(options, results, scratch, started)
        results.change(lambda content: content.update(took_s=round(time.monotonic() - started, 1)))
    import render

    content = results.read()
    print(render.as_text(content))
    print(f"written: {results.path}")
    return 1 if content.get("failures") or failures else 0


def _measure(options: argparse.Namespace, results: Results, scratch: Path, started: float) -> None:
    check = Check(options, results, scratch, started + options.seconds)
    check.started = started
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        check.start = "fresh"
    check.on_message(f"libraries are loaded; each measurement is a {check.start} process")
    check.run()


def _header(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device_kind": options.device,
        "is_tiny": options.tiny,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def _describe(provided: dict[str, Any]) -> Iterator[str]:
    yield f"packages: {', '.join(f'{name} {version}' for name, version in provided['there'].items())}"
    yield f"unpacked: {', '.join(provided['unpacked']) or 'none'}"
    for name, reason in {**provided["missing"], **provided["failed"]}.items():
        yield f"not as needed: {name}: {reason}"


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


if __name__ == "__main__":
    sys.exit(main())
