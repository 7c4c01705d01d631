"""Small configurations of other tools, and what each says in the terms of a recipe."""

from __future__ import annotations

from typing import Any

AXOLOTL_DPO = """\
base_model: mistralai/Mistral-7B-v0.1
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
rl: ipo
rl_beta: 0.2
chat_template: chatml
datasets:
  - path: argilla/distilabel-intel-orca-dpo-pairs
    type: chatml.intel
    split: train
val_set_size: 0.1
sequence_len: 2048
sample_packing: false
micro_batch_size: 2  # fits 24 GB
gradient_accumulation_steps: 4
num_epochs: 2
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 5e-6
warmup_steps: 10
bf16: auto
evals_per_epoch: 1
wandb_project: my-dpo
wandb_entity:
hub_token: hf_abcdefghijklmnopqrstuvwxyz01234567
plugins:
  - axolotl.integrations.liger.LigerPlugin
deepspeed: deepspeed_configs/zero2.json
"""
AXOLOTL_KTO = """\
base_model: meta-llama/Llama-3.2-1B
rl: kto
remove_unused_columns: false
kto_desirable_weight: 0.2
datasets:
  - {path: argilla/ultrafeedback-binarized-preferences-cleaned-kto, type: llama3.ultra}
micro_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 0.0002
"""
AXOLOTL_REWARD = """\
base_model: google/gemma-2-2b
reward_model: true
chat_template: gemma
datasets:
  - path: argilla/distilabel-intel-orca-dpo-pairs
    type: bradley_terry.chat_template
learning_rate: 0.0002
center_rewards_coefficient: 0.01
"""
AXOLOTL_OWN_TYPE = """\
base_model: Qwen/Qwen2-0.5B
rl: dpo
datasets:
  - path: org/pairs
    type:
      field_prompt: question
      field_chosen: better
      field_rejected: worse
      prompt_format: "[INST] {prompt} [/INST]"
      chosen_format: "{chosen}</s>"
      rejected_format: "{rejected}</s>"
learning_rate: 1e-6
"""
AXOLOTL_SFT = """\
base_model: Qwen/Qwen2-0.5B
datasets:
  - {path: org/dialogues, type: chat_template, field_messages: conversations}
sequence_len: 1024
learning_rate: 2e-5
train_on_inputs: false
"""
TRL_DPO = """\
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
dataset_name: trl-lib/ultrafeedback_binarized
learning_rate: 5.0e-7
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
loss_type: [sigmoid, bco_pair]
loss_weights: [0.8, 0.2]
use_peft: true
lora_r: 64
warmup_steps: 0.1
max_length: 2048
truncation_mode: keep_end
eval_strategy: steps
eval_steps: 50
report_to: wandb
"""
TRL_SIMPO = """\
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
datasets:
  - {path: org/pairs, split: train, fraction: 0.5}
  - {path: org/more}
loss_type: simpo
cpo_alpha: 0
simpo_gamma: 1.2
beta: 2.5
max_steps: 100
save_steps: 0.25
"""
HANDBOOK_MIXER = """\
model_name_or_path: alignment-handbook/zephyr-7b-sft-full
torch_dtype: bfloat16
dataset_mixer:
  HuggingFaceH4/ultrafeedback_binarized: 1.0
  org/other: 0.25
dataset_splits: [train_prefs, test_prefs]
bf16: true
beta: 0.01
learning_rate: 5.0e-7
lr_scheduler_type: cosine
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adamw_torch
per_device_train_batch_size: 8
gradient_accumulation_steps: 2
warmup_ratio: 0.1
evaluation_strategy: steps
eval_steps: 100
"""
HANDBOOK_MIXTURE = """\
model_name_or_path: HuggingFaceH4/zephyr-7b-gemma-sft-v0.1
dataset_mixture:
  datasets:
    - {id: argilla/dpo-mix-7k, config: default, split: train, columns: [chosen, rejected], weight: 1.0}
    - {id: org/other, config: en, split: train, weight: 0.5}
  test_split_size: 500
  seed: 0
beta: 0.05
bf16: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
"""
LLAMA_FACTORY_DPO = """\
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: q_proj,v_proj
pref_beta: 0.2
pref_ftx: 0.5
dataset: dpo_mix_en,orca_pairs
template: llama3
cutoff_len: 1024
max_samples: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
eval_strategy: steps
eval_steps: 500
quantization_bit: 4
"""
LLAMA_FACTORY_SIMPO = """\
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
stage: dpo
pref_loss: simpo
finetuning_type: full
dataset: ultrafeedback
template: qwen
deepspeed: examples/deepspeed/ds_z3_offload_config.json
"""
LLAMA_FACTORY_V1 = """\
model: Qwen/Qwen3-4B
peft_config: {name: lora, r: 16, lora_alpha: 32, target_modules: all}
dist_config: {name: fsdp2, dcp_path: null}
train_dataset: data/v1_dpo_demo.yaml
micro_batch_size: 1
global_batch_size: 16
cutoff_len: 2048
learning_rate: 1.0e-5
max_steps: 10
"""
OUMI_DPO = """\
model:
  model_name: meta-llama/Llama-3.2-1B-Instruct
  model_max_length: 4096
  torch_dtype_str: bfloat16
data:
  train:
    datasets:
      - dataset_name: mlabonne/orpo-dpo-mix-40k
        split: train
        sample_count: 100
training:
  trainer_type: TRL_DPO
  use_peft: true
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 8
  output_dir: output/${model.model_name}
  trainer_kwargs: {beta: 0.3, loss_type: hinge, max_length: 512}
  enable_tensorboard: false
peft:
  q_lora: true
  lora_r: 16
fsdp: {enable_fsdp: false}
"""
SWIFT_DPO = """\
# 24GiB
nproc_per_node=2
CUDA_VISIBLE_DEVICES=0,1 \\
NPROC_PER_NODE=$nproc_per_node \\
swift rlhf \\
    --rlhf_type dpo \\
    --model LLM-Research/Meta-Llama-3.1-8B-Instruct \\
    --tuner_type lora \\
    --dataset 'AI-ModelScope/hh-rlhf:helpful-base#1000' local.jsonl \\
    --split_dataset_ratio 0.01 \\
    --torch_dtype bfloat16 \\
    --gradient_accumulation_steps $(expr 16 / $nproc_per_node) \\
    --learning_rate 1e-4 \\
    --max_length 2048 \\
    --rpo_alpha 0.1 \\
    --lr_scheduler_kwargs '{"min_lr": 1e-5}' --lr_scheduler_type cosine_with_min_lr \\
    --deepspeed zero3_offload
"""
SWIFT_YAML = """\
rlhf_type: simpo
model: Qwen/Qwen2.5-0.5B-Instruct
dataset: [org/pairs]
lora_rank: 4
ENV: {NPROC_PER_NODE: '4'}
"""
MEGATRON = """\
NPROC_PER_NODE=8 megatron rlhf --rlhf_type dpo --model Qwen/Qwen3-30B-A3B --dataset org/pairs \\
  --micro_batch_size 1 --global_batch_size 32 --lr 1e-5 --min_lr 1e-6 --lr_warmup_fraction 0.05 \\
  --tensor_model_parallel_size 4 --max_length 8192 --train_iters 200 --recompute_granularity full
"""

FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "axolotl_dpo.yml": (
        "axolotl",
        AXOLOTL_DPO,
        {
            "model.path": "mistralai/Mistral-7B-v0.1", "model.dtype": "auto",
            "model.quantization.bits": 4, "model.quantization.double_quant": True,
            "model.adapter.r": 32, "model.adapter.alpha": 16, "model.adapter.dropout": 0.0,
            "model.adapter.target_modules": "all-linear",
            "objective.kind": "dpo", "objective.loss_type": "ipo", "objective.beta": 0.2,
            "chat_template": "chatml", "data.train[0].format": "chatml.intel", "data.eval.fraction": 0.1,
            "data.max_length": 2048, "data.overlong": "drop",
            "training.micro_batch_size": 2, "training.gradient_accumulation_steps": 4, "training.num_epochs": 2,
            "training.learning_rate": 5e-6, "training.lr_scheduler": "cosine", "training.warmup_steps": 10,
            "training.optimizer": "paged_adamw_8bit", "training.weight_decay": 0.0, "training.eval_steps": "epoch",
            "training.seed": 42, "tracking.report_to": ["wandb"], "tracking.project": "my-dpo",
            "launch.strategy": "deepspeed-zero2", "checkpoints.save_total_limit": 4,
        },
    ),
    "axolotl_kto.yml": (
        "axolotl",
        AXOLOTL_KTO,
        {
            "objective.kind": "kto", "objective.desirable_weight": 0.2, "objective.undesirable_weight": 1.0,
            "chat_template": "llama3", "data.train[0].format": "kto.llama3.ultra",
            "training.micro_batch_size": 2, "training.gradient_accumulation_steps": 4,
            "data.max_length": 512, "training.warmup_ratio": 0.03,
        },
    ),
    "axolotl_reward.yml": (
        "axolotl",
        AXOLOTL_REWARD,
        {
            "objective.kind": "reward", "objective.center_rewards_coefficient": 0.01, "chat_template": "gemma",
            "data.train[0].columns": {"prompt": "input"}, "training.micro_batch_size": 1,
        },
    ),
    "axolotl_own_type.yml": (
        "axolotl",
        AXOLOTL_OWN_TYPE,
        {
            "data.train[0].format": "passthrough",
            "data.train[0].columns": {
                "prompt": "[INST] {question} [/INST]", "chosen": "{better}</s>", "rejected": "{worse}</s>",
            },
        },
    ),
    "axolotl_sft.yml": (
        "axolotl",
        AXOLOTL_SFT,
        {"objective.kind": "sft", "data.train[0].format": "sharegpt_sft", "training.learning_rate": 2e-5},
    ),
    "trl_dpo.yaml": (
        "trl",
        TRL_DPO,
        {
            "model.dtype": "bfloat16", "model.adapter.r": 64, "model.adapter.alpha": 32,
            "model.adapter.dropout": 0.05, "model.adapter.target_modules": ["q_proj", "v_proj"],
            "objective.loss_type": ["sigmoid", "bco_pair"], "objective.loss_weights": [0.8, 0.2],
            "objective.beta": 0.1, "data.max_length": 2048, "data.overlong": "truncate_prompt_start",
            "data.eval.split": "test", "training.num_epochs": 3, "training.lr_scheduler": "linear",
            "training.warmup_ratio": 0.1, "training.micro_batch_size": 2, "training.gradient_accumulation_steps": 8,
            "training.gradient_checkpointing": True, "training.eval_steps": 50,
        },
    ),
    "trl_cpo.yaml": (
        "trl",
        TRL_SIMPO,
        {
            "objective.kind": "simpo", "objective.beta": 2.5, "objective.gamma": 1.2, "objective.cpo_alpha": 0,
            "data.train[0].split": "train[:50%]", "data.train[1].path": "org/more",
            "training.max_steps": 100, "checkpoints.save_steps": 25, "training.micro_batch_size": 8,
        },
    ),
    "handbook_mixer_dpo.yaml": (
        "handbook",
        HANDBOOK_MIXER,
        {
            "data.train[0].path": "HuggingFaceH4/ultrafeedback_binarized", "data.train[0].split": "train_prefs",
            "data.train[1].split": "train_prefs[:25%]", "data.eval.sources[0].split": "test_prefs",
            "objective.beta": 0.01, "data.max_length": 1024, "data.overlong": "truncate_prompt_start",
            "training.micro_batch_size": 8, "training.gradient_accumulation_steps": 2,
            "training.optimizer": "adamw_torch", "training.gradient_checkpointing": False,
        },
    ),
    "handbook_mixture_dpo.yaml": (
        "handbook",
        HANDBOOK_MIXTURE,
        {
            "data.train[1].name": "en", "data.train[1].split": "train[:50%]", "data.eval.count": 500,
            "training.learning_rate": 1e-6, "training.lr_scheduler": "linear", "training.num_epochs": 3,
        },
    ),
    "llama_factory_dpo.yaml": (
        "llama-factory",
        LLAMA_FACTORY_DPO,
        {
            "data.train[0].path": "llamafactory/DPO-En-Zh-20k", "data.train[0].name": "en",
            "data.train[0].limit": 500, "data.train[1].format": "alpaca",
            "data.train[1].columns": {"instruction": "question"},
            "objective.loss_type": ["sigmoid", "sft"], "objective.loss_weights": [1.0, 0.5], "objective.beta": 0.2,
            "model.adapter.r": 16, "model.adapter.alpha": 32, "model.adapter.dropout": 0.0,
            "model.adapter.target_modules": ["q_proj", "v_proj"],
            "model.quantization.bits": 4, "model.quantization.double_quant": True, "model.dtype": "bfloat16",
            "chat_template": "llama3", "data.max_length": 1024, "data.eval.fraction": 0.1,
            "training.eval_steps": 500, "training.lr_scheduler": "cosine", "training.warmup_ratio": 0.1,
            "training.gradient_checkpointing": True, "training.micro_batch_size": 1,
            "training.gradient_accumulation_steps": 8,
        },
    ),
    "llama_factory_simpo.yaml": (
        "llama-factory",
        LLAMA_FACTORY_SIMPO,
        {
            "objective.kind": "simpo", "objective.beta": 0.1, "objective.gamma": 0.5, "objective.cpo_alpha": 0.0,
            "chat_template": "qwen2.5", "launch.strategy": "deepspeed-zero3", "launch.offload": "all",
            "training.learning_rate": 5e-5, "model.dtype": "float32", "training.micro_batch_size": 8,
        },
    ),
    "llama_factory_v1_dpo.yaml": (
        "llama-factory-v1",
        LLAMA_FACTORY_V1,
        {
            "data.train[0].path": "HuggingFaceH4/orca_dpo_pairs", "data.train[0].split": "train_prefs",
            "training.gradient_accumulation_steps": 16, "training.lr_scheduler": "constant",
            "training.weight_decay": 0.01, "training.max_steps": 10, "model.adapter.alpha": 32,
            "launch.strategy": "fsdp", "model.adapter.target_modules": "all-linear",
        },
    ),
    "oumi_dpo.yaml": (
        "oumi",
        OUMI_DPO,
        {
            "data.max_length": 4096, "objective.beta": 0.3, "objective.loss_type": "hinge",
            "data.train[0].limit": 100, "model.dtype": "bfloat16", "model.adapter.r": 16, "model.adapter.alpha": 8,
            "model.quantization.quant_type": "fp4", "model.quantization.double_quant": False,
            "training.learning_rate": 5e-5, "training.logging_steps": 50, "training.num_epochs": 3,
            "output_dir": "output/meta-llama/Llama-3.2-1B-Instruct",
        },
    ),
    "swift_dpo.sh": (
        "ms-swift",
        SWIFT_DPO,
        {
            "model.path": "meta-llama/Meta-Llama-3.1-8B-Instruct", "model.adapter.r": 8, "model.adapter.alpha": 32,
            "data.train[0].path": "Anthropic/hh-rlhf", "data.train[0].limit": 1000,
            "data.train[0].name": "helpful-base", "data.eval.fraction": 0.01,
            "training.gradient_accumulation_steps": 8, "launch.num_processes": 2,
            "launch.strategy": "deepspeed-zero3", "launch.offload": "all",
            "training.lr_scheduler": "cosine_with_min_lr", "training.min_lr_ratio": 0.1,
            "objective.loss_type": ["sigmoid", "sft"], "objective.loss_weights": [1.0, 0.1],
            "training.weight_decay": 0.1, "training.eval_steps": 500, "data.overlong": "drop",
        },
    ),
    "swift.yaml": (
        "ms-swift",
        SWIFT_YAML,
        {
            "objective.kind": "simpo", "objective.beta": 2.0, "objective.gamma": 1.0, "objective.cpo_alpha": 1.0,
            "training.gradient_accumulation_steps": 4, "launch.num_processes": 4, "training.learning_rate": 1e-4,
            "model.adapter.r": 4, "model.adapter.dropout": 0.05, "training.num_epochs": 3,
        },
    ),
    "megatron.sh": (
        "ms-swift",
        MEGATRON,
        {
            "training.micro_batch_size": 1, "training.gradient_accumulation_steps": 32,
            "training.min_lr_ratio": 0.1, "training.warmup_ratio": 0.05, "training.max_steps": 200,
            "training.gradient_checkpointing": True, "data.max_length": 8192,
        },
    ),
}  # fmt: skip
"""The name of each file, its tool, its text, and fields of its recipe."""
