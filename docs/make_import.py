"""Writes docs/import.md: what an import prints for an example, the defaults of each tool, and what each key becomes.

python docs/make_import.py
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path

from dpo_recipes import registry
from dpo_recipes.cli.import_text import describe_import
from dpo_recipes.share.foreign.importer import Imported, import_file
from dpo_recipes.share.foreign.listed import Listed
from dpo_recipes.share.foreign.tool import Tool

EXAMPLE = """\
base_model: mistralai/Mistral-7B-v0.1
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_linear: true

rl: dpo
rl_beta: 0.2
chat_template: chatml
datasets:
  - path: argilla/distilabel-intel-orca-dpo-pairs
    type: chatml.intel
val_set_size: 0.05
sequence_len: 2048
sample_packing: false
neftune_noise_alpha: 5

micro_batch_size: 2  # fits 24 GB
gradient_accumulation_steps: 4
num_epochs: 1
learning_rate: 5e-6
warmup_steps: 10
bf16: auto
wandb_project: my-dpo
wandb_entity:
plugins:
  - axolotl.integrations.liger.LigerPlugin
"""
MINIMAL = {
    "axolotl": "base_model: gpt2\nrl: dpo\nlearning_rate: 1e-6\ndatasets:\n  - {path: org/pairs}\n",
    "llama-factory": "model_name_or_path: gpt2\nstage: dpo\ndataset: ultrafeedback\n",
    "llama-factory-v1": "model: gpt2\ntrain_dataset: org/dpo\npeft_config: {name: lora}\n",
    "trl": "model_name_or_path: gpt2\ndataset_name: org/pairs\nbeta: 0.1\nuse_peft: true\n",
    "handbook": "model_name_or_path: gpt2\nbeta: 0.1\ndataset_mixer: {org/pairs: 1.0}\nuse_peft: true\n",
    "oumi": "model: {model_name: gpt2}\ndata: {train: {datasets: [{dataset_name: org/pairs}]}}\n"
    "training: {trainer_type: TRL_DPO, use_peft: true}\n",
    "ms-swift": "model: gpt2\nrlhf_type: dpo\ndataset: [org/pairs]\n",
}
"""The smallest configuration of each tool, in the order of the page."""
FIELDS = (
    "training.learning_rate",
    "training.lr_scheduler",
    "training.warmup_ratio",
    "training.micro_batch_size",
    "training.gradient_accumulation_steps",
    "training.num_epochs",
    "training.optimizer",
    "training.weight_decay",
    "training.gradient_checkpointing",
    "training.seed",
    "data.max_length",
    "data.overlong",
    "model.dtype",
    "model.adapter.r",
    "model.adapter.alpha",
    "model.adapter.dropout",
    "objective.beta",
    "objective.loss_type",
)

HEAD = """# Import a configuration of another tool

`docs/make_import.py` writes this page from the importers' own tables.

```sh
dpo-recipe import axolotl.yml -o my-dpo.yaml       # the tool is found by its keys
dpo-recipe import train.sh --from ms-swift         # a script with the command line; the recipe goes to stdout
dpo-recipe import config.yaml --objective kto      # for a file that does not say what is trained
dpo-recipe import axolotl.yml --json               # what became of each key, for programs
```

It reads configurations of Axolotl, LLaMA-Factory (0.9 and its version 1), TRL's command line, the alignment handbook, oumi and
ms-swift: YAML, JSON, and shell scripts that start these tools. The recipe does what the tool would have done, as far as a recipe
can say it, and passes `dpo-recipe validate`. Nothing is run, downloaded or overwritten.

- **Every key is accounted for.** A key is *mapped* if a field has its value; *derived* if fields were made from it, perhaps
  together with others; *listed* if no field has it. The summary on stderr lists these with their line and what that costs: first
  those that may change the result, then the others. Keys that the tool's version does not have are listed too, with a hint.
- **Defaults are the tool's.** What the file leaves unsaid gets the default of that tool and version, written into the recipe with
  a comment, because dpo-recipe's own defaults would be another job.
- **What cannot be combined here is left out**, and its key is listed with the reason. KTO with a micro-batch of one gets two rows
  and half of the accumulation.
- **Secrets are not copied**: tokens and keys in the file are listed without their value.
- **Values that only another machine knows**, such as `${oc.env:MODEL}` or `$MODEL`, are listed. References to other keys,
  variables that a script sets, and sums such as `$(expr 16 / $n)` are resolved.
- **Rows.** These tools do not check rows, so the recipe has `on_bad_row: drop`: rows that the objective cannot use are dropped
  and counted. Run `dpo-recipe data` on the recipe first, which shows what the model would be trained on.

The number of processes is that of the script, if there is one (`NPROC_PER_NODE`, `--num_processes`). A configuration file does not
have it: its recipe has the effective batch of one process, and `dpo-recipe run --num-processes N` keeps that.

## An example
"""
AFTER = """
## What is refused

| code | the file |
| --- | --- |
| S501 | cannot be read |
| S502 | is no mapping, or no valid YAML or JSON; has tags |
| S503 | has a key twice |
| S504 | has a value that is not possible for its key |
| S505 | names no model or no training data, or names them by a variable of the environment |
| S506 | belongs to no tool that is known, or to several |
| S507 | trains something that no recipe describes: pretraining, distillation, RL with rewards in code |

## Defaults
"""


def make_page() -> str:
    """The whole page."""
    tools = [registry.load("foreign_tools", name) for name in MINIMAL]
    count = Counter(table for tool in tools for table in {*tool.listed})
    shared = [table for tool in tools for table in tool.listed if count[table] > 1]
    shared = list(dict.fromkeys(shared))
    example = _import("axolotl", EXAMPLE, "axolotl.yml")
    summary = describe_import(example, Path("my-dpo.yaml"))
    parts = [
        HEAD,
        f"```yaml\n{EXAMPLE}```\n",
        "`dpo-recipe import axolotl.yml -o my-dpo.yaml` prints",
        f"\n```text\n{summary}\n```\n",
        f"and writes\n\n```yaml\n{example.text}```",
        AFTER,
        _defaults(),
        "\nReward models, KTO and fine-tuning have defaults of their own. A dash: the recipe has no such field.\n",
        *(_tool(tool, shared) for tool in tools),
        "\n## Keys of several tools that no field has\n",
        _listed(shared),
    ]
    return "\n".join(parts)


def _import(tool: str, text: str, name: str = "dpo.yaml") -> Imported:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        imported = import_file(path, tool=tool, to=Path(folder) / "my-dpo.yaml")
    imported.config.__dict__["file"] = name
    return imported


def _defaults() -> str:
    """A table of the defaults, from an import of the smallest configuration of each tool."""
    found = {tool: _import(tool, text).draft for tool, text in MINIMAL.items()}
    titles = [registry.load("foreign_tools", tool).title for tool in MINIMAL]
    rows = [f"| field | {' | '.join(titles)} |", f"| --- |{' --- |' * len(titles)}"]
    for field in FIELDS:
        values = [_shown(draft.value(field)) for draft in found.values()]
        if field == "training.learning_rate":
            values[0] = "required"
        rows.append(f"| `{field}` | {' | '.join(values)} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def _tool(tool: Tool, shared: list[Listed]) -> str:
    """The keys of a tool: what each becomes, and what is listed."""
    rows = [f"\n## {tool.title}\n", f"Version {tool.version.strip('()')}; `--from {tool.name}`.\n"]
    commands = [program for program in tool.programs if not program.endswith(".py")]
    if commands:
        rows += [f"Scripts: {', '.join(f'`{command}`' for command in commands[:6])}.\n"]
    rows += ["| keys | fields |", "| --- | --- |"]
    by_field: dict[str, list[str]] = {}
    for key, to in tool.mapped.items():
        by_field.setdefault(to, []).append(key)
    rows += [f"| {_code(', '.join(keys))} | {_code(to)} |" for to, keys in by_field.items()]
    rows += [f"| {_code(keys)} | {_code(to)} |" for keys, to in tool.derived.items()]
    own = [table for table in tool.listed if table not in shared]
    return "\n".join([*rows, "", _listed(own)])


def _listed(tables: list[Listed]) -> str:
    rows = ["| keys that no field has | what that costs |", "| --- | --- |"]
    for table in tables:
        cost = f"{table.cost}{' (the result may differ)' if table.differs else ''}"
        rows.append(f"| {_code(', '.join(table.names))} | {cost} |")
    return "\n".join(rows)


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" if re.fullmatch(r"[\w.\[\]*-]+", name) else name for name in names.split(", "))


if __name__ == "__main__":
    Path(__file__).with_name("import.md").write_text(make_page() + "\n", encoding="utf-8")
