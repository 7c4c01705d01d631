"""What the CPU allocator settings of launch/local.py do to one training step.

    python benchmarks/allocator.py [--repeats 2] [--output benchmarks/results/allocator.json]

Each measurement is a fresh process that builds a randomly initialised Llama of SmolLM2-135M's shape with LoRA on all
linear layers and does DPO steps on 4 random pairs of 150 and 170 tokens; settings alternate, medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dpo_recipes.hardware.machine import describe_machine, package_versions
from dpo_recipes.launch.local import cpu_allocator

SETTINGS = {"default": {}, "dpo-recipe": cpu_allocator()}


def measure_step() -> dict[str, float]:
    """Seconds, system seconds and minor page faults of the second step, and the process's peak memory."""
    import random

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig

    from dpo_recipes.objectives.dpo import PretokenizedDPOTrainer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
    draw = random.Random(0)
    lengths = {"prompt_ids": 100, "chosen_ids": 50, "rejected_ids": 70}
    pairs = {name: [[draw.randrange(2, 49152) for _ in range(n)] for _ in range(4)] for name, n in lengths.items()}
    with tempfile.TemporaryDirectory() as folder:
        trainer = PretokenizedDPOTrainer(
            model=LlamaForCausalLM(config),
            args=DPOConfig(
                folder, bf16=False, use_cpu=True, activation_checkpointing=False, per_device_train_batch_size=4,
                max_length=None, report_to="none",
            ),
            train_dataset=Dataset.from_dict(pairs),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.compute_loss(trainer.model, batch).backward()
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        trainer.compute_loss(trainer.model, batch).backward()
        wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "step_s": wall_s,
        "system_s": after.ru_stime - before.ru_stime,
        "minor_faults": after.ru_minflt - before.ru_minflt,
        "peak_bytes": after.ru_maxrss * 1024,
    }


def main() -> None:
    """Measure each setting in turn and print, or write, the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_step()))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for _ in range(options.repeats):
        for name, variables in SETTINGS.items():
            done = subprocess.run(
                [sys.executable, __file__, "--measure"],
                env={**os.environ, **variables},
                capture_output=True,
                check=True,
            )
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: round(statistics.median(run[key] for run in measured), 3) for key in measured[0]}
        for name, measured in runs.items()
    }
    report = {"machine": describe_machine(), "packages": package_versions(), "repeats": options.repeats, **medians}
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
