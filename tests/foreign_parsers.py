"""What the tools themselves read from a configuration, as JSON: run by a Python in which they are installed.

python foreign_parsers.py TOOL FILE
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ |= {
    "DISABLE_VERSION_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

import yaml

Fields = dict[str, Any]


def of_axolotl(path: Path) -> Fields:
    """Axolotl's own model of a configuration."""
    from axolotl.utils.dict import DictDefault  # type: ignore[import-not-found]
    from axolotl.utils.schemas.config import AxolotlInputConfig  # type: ignore[import-not-found]

    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = AxolotlInputConfig(**DictDefault(data))
    names = (
        "base_model micro_batch_size gradient_accumulation_steps num_epochs learning_rate lr_scheduler optimizer "
        "weight_decay sequence_len lora_r lora_alpha lora_dropout rl rl_beta warmup_steps warmup_ratio val_set_size "
        "gradient_checkpointing chat_template load_in_4bit"
    )
    return {name: _plain(getattr(config, name)) for name in names.split()}


def of_llama_factory(path: Path) -> Fields:
    """The arguments of LLaMA-Factory's parser."""
    from llamafactory.hparams.parser import _TRAIN_ARGS  # type: ignore[import-not-found]
    from transformers import HfArgumentParser

    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    given = {name: data.pop(name) for name in ("bf16", "warmup_ratio", "deepspeed") if name in data}
    arguments = HfArgumentParser(_TRAIN_ARGS).parse_dict({"output_dir": "x", "use_cpu": True, **data})
    return _merged(arguments) | given  # what needs another transformers, DeepSpeed or a GPU


def of_llama_factory_v1(path: Path) -> Fields:
    """The arguments of version 1."""
    from llamafactory.v1.config.arg_parser import get_args  # type: ignore[import-not-found]

    return _merged(get_args(yaml.safe_load(path.read_text(encoding="utf-8"))))


def of_oumi(path: Path) -> Fields:
    """What oumi hands to TRL."""
    from oumi.core.configs import TrainingConfig  # type: ignore[import-not-found]

    config = TrainingConfig.from_yaml(str(path))
    config.training.trainer_kwargs |= {"use_cpu": True}
    return _merged([config.peft, config.training.to_hf()]) | {"model_name": config.model.model_name}


def of_ms_swift(path: Path) -> Fields:
    """The arguments of ms-swift before it looks for the model."""
    from swift.arguments import RLHFArguments  # type: ignore[import-not-found]
    from transformers import HfArgumentParser

    RLHFArguments.__post_init__ = lambda self: None
    words = []
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if key != "ENV":
            words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return _merged(HfArgumentParser(RLHFArguments).parse_args_into_dataclasses(words))


def of_trl(path: Path) -> Fields:
    """The arguments of `trl dpo`."""
    trl: Any = import_module("trl")
    parser = trl.TrlParser((trl.ScriptArguments, trl.DPOConfig, trl.ModelConfig, trl.DatasetMixtureConfig))
    options = ["--config", str(path), "--output_dir", "x", "--use_cpu", "true", "--bf16", "false"]
    return _merged(parser.parse_args_and_config(options))


def _merged(arguments: Any) -> Fields:
    found: Fields = {}
    for part in arguments:
        for name, value in vars(part).items():
            if name not in found or found[name] is None:
                found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    return value if isinstance(value, str | int | float | bool | list | dict) or value is None else str(value)


READERS = {
    "axolotl": of_axolotl,
    "llama-factory": of_llama_factory,
    "llama-factory-v1": of_llama_factory_v1,
    "oumi": of_oumi,
    "ms-swift": of_ms_swift,
    "trl": of_trl,
}

if __name__ == "__main__":
    fields = READERS[sys.argv[1]](Path(sys.argv[2]))
    print("\n@" + json.dumps({key: value for key, value in fields.items() if not key.startswith("_")}, default=str))
