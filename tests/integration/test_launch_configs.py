"""What is generated for DeepSpeed, FSDP and accelerate is read by these libraries, and means what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.engine.dpo_trainer import dpo_config
from dpo_recipes.engine.versions import checkpointing_argument
from dpo_recipes.launch import accelerate as accelerate_launcher
from dpo_recipes.launch.batch import BatchPlan
from dpo_recipes.launch.files import LaunchPlan
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.strategy_configs import deepspeed_config, fsdp_config
from dpo_recipes.recipe.launch_keys import ACCELERATE, DEEPSPEED, DEEPSPEED_ZERO, FSDP, SAID_ELSEWHERE
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory

ONE = BatchPlan(1, 1, 2, 4)


def recipe(training: dict[str, Any] | None = None, device: str = "cpu", **launch: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]},
        "training": {"max_grad_norm": 0.5, **(training or {})}, "hardware": {"device": device}, "launch": launch,
    })  # fmt: skip


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", ["none", "optimizer", "all"])
def test_deepspeed_reads_its_configuration(stage: int, offload: str) -> None:
    config_module = pytest.importorskip("deepspeed.runtime.config")
    if offload == "all" and stage < 3:
        pytest.skip("refused at validation")
    extra = {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 1000}}
    config = deepspeed_config(recipe(offload=offload, deepspeed=extra), f"deepspeed-zero{stage}", ONE, "bfloat16")
    read = config_module.DeepSpeedConfig(config)
    assert read.zero_optimization_stage == stage
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (8, 2, 4)
    assert read.gradient_clipping == 0.5
    assert (read.bfloat16_config.enabled, read.float16_config.enabled) == (True, False)
    assert read.wall_clock_breakdown
    assert read.zero_config.reduce_bucket_size == 1000
    devices = [read.zero_config.offload_optimizer, read.zero_config.offload_param]
    assert [part and part.device for part in devices] == {
        "none": [None, None],
        "optimizer": ["cpu", None],
        "all": ["cpu", "cpu"],
    }[offload]
    if offload != "none":  # torch's own optimizer, which no compiler must build
        assert read.zero_force_ds_cpu_optimizer is False


def test_keys_of_deepspeed_are_those_it_has() -> None:
    zero = pytest.importorskip("deepspeed.runtime.zero.config").DeepSpeedZeroConfig
    names = {field.alias or name for name, field in zero.model_fields.items()}
    elsewhere = {path.split(".")[1] for path in SAID_ELSEWHERE["deepspeed"] if path.startswith("zero_optimization.")}
    deprecated = {"cpu_offload_use_pin_memory", "stage3_gather_fp16_weights_on_model_save"}
    assert names == DEEPSPEED_ZERO | elsewhere | deprecated
    import deepspeed

    source = "".join(path.read_text(encoding="utf-8") for path in (Path(deepspeed.__file__).parent).rglob("*.py"))
    assert [key for key in DEEPSPEED if f'"{key}"' not in source and f"'{key}'" not in source] == []


def test_transformers_and_accelerate_read_the_fsdp_configuration(tmp_path: Path) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    given = recipe({"gradient_checkpointing": True}, offload="all", fsdp={"reshard_after_forward": False})
    launch = LaunchPlan(BatchPlan(2, 1, 2, 4), "fsdp")
    arguments = dpo_config(
        TrainingContext(given, tmp_path, "cpu", "float32", distributed=DistributedContext(launch=launch))
    )
    plugin = FullyShardedDataParallelPlugin(**arguments._process_fsdp_args())
    assert plugin.fsdp_version == 2
    assert plugin.cpu_offload
    assert plugin.reshard_after_forward is False
    assert getattr(arguments, checkpointing_argument())
    assert not plugin.activation_checkpointing  # both together are refused upstream
    assert type(plugin.state_dict_type).__name__ == "StateDictType"


def test_keys_of_fsdp_and_accelerate_are_those_they_have() -> None:
    import inspect
    from dataclasses import fields

    from transformers import TrainingArguments
    from transformers.trainer_pt_utils import AcceleratorConfig

    source = inspect.getsource(TrainingArguments._process_fsdp_args)
    generated = fsdp_config(recipe())
    assert [key for key in FSDP | generated.keys() if f'"{key}"' not in source] == []
    known = {field.name for field in fields(AcceleratorConfig)}
    elsewhere = {path.split(".")[0] for path in SAID_ELSEWHERE["accelerate"]}
    assert known == ACCELERATE | elsewhere | {"use_configured_state"}


def test_accelerate_reads_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    monkeypatch.setattr(accelerate_launcher, "gpu_names", lambda: ["A40"] * 4)
    request = LaunchRequest(recipe(device="cuda"), RunDirectory(tmp_path), 8, 2, rendezvous="first:2900")
    accelerate_launcher.LAUNCHER.prepare(request)
    command = accelerate_launcher.LAUNCHER.command(request)
    config: Any = load_config_from_file(command[command.index("--config_file") + 1])
    assert (config.num_processes, config.num_machines, config.distributed_type.value) == (8, 2, "MULTI_GPU")
    assert command[-3:] == ["-m", "dpo_recipes.worker", str(tmp_path)]


def test_nodes_that_accelerate_starts_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments that torchrun gets from `accelerate launch`."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env
    from torch.distributed.run import config_from_args, get_args_parser

    monkeypatch.setattr(accelerate_launcher, "gpu_names", lambda: ["A40"] * 4)
    request = LaunchRequest(recipe(device="cuda"), RunDirectory(tmp_path), 8, 2, rendezvous="first:2900")
    accelerate_launcher.LAUNCHER.prepare(request)
    words = accelerate_launcher.LAUNCHER.command(request)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[3:]))
    prepare_multi_gpu_env(arguments)
    defaults = get_args_parser().parse_args(["script"])
    for name, value in vars(arguments).items():
        if hasattr(defaults, name):
            setattr(defaults, name, value)
    config, _, _ = config_from_args(defaults)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "first:2900")


def test_accelerate_is_refused_where_it_would_start_one_process(tmp_path: Path) -> None:
    from dpo_recipes.errors import RecipeError

    with pytest.raises(RecipeError, match="backend: auto"):
        accelerate_launcher.LAUNCHER.prepare(LaunchRequest(recipe(), RunDirectory(tmp_path), 2))


def test_transformers_agrees_with_the_deepspeed_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    given = recipe({"micro_batch_size": 2, "gradient_accumulation_steps": 4})
    plain = dpo_config(TrainingContext(given, tmp_path, "cpu", "float32"))
    config = HfTrainerDeepSpeedConfig(
        json.loads(json.dumps(deepspeed_config(given, "deepspeed-zero2", ONE, "float32")))
    )
    config.trainer_config_process(plain)
    config.trainer_config_finalize(plain, model=None, num_training_steps=10)  # raises where both differ
    assert config.config["zero_optimization"] == {"stage": 2}
