"""Private and moving names of the libraries below us. When one of these fails, read the release notes first."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from sharing import make_model
from transformers import AttentionInterface, Trainer, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, rewrite_logs
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl.kernels import chunked_logprob
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_recipes.engine import varlen
from dpo_recipes.engine.attention import KEYWORD
from dpo_recipes.engine.dpo_trainer import _ACCURACIES, _MARGINS, PretokenizedDPOTrainer
from dpo_recipes.engine.head import prepare_head
from dpo_recipes.engine.trackers.base import by_split
from dpo_recipes.engine.versions import checkpointing_argument
from dpo_recipes.objectives.dpo import DpoLoss, DpoParams
from dpo_recipes.objectives.dpo_checks import SMOOTHED
from dpo_recipes.recipe.schema.tracking import TrackerName
from dpo_recipes.recipe.schema.training import Training


def test_a_recipe_may_name_the_trackers_that_transformers_has() -> None:
    assert set(get_args(TrackerName)) == set(INTEGRATION_TO_CALLBACK)


def test_transformers_adds_kubeflow_by_itself() -> None:
    assert 'if is_kubeflow_available() and "kubeflow" not in self.report_to' in inspect.getsource(
        TrainingArguments.__post_init__
    )


def test_trackio_counts_its_next_step_from_the_rows_that_it_has() -> None:
    trackio_run = pytest.importorskip("trackio.run")
    source = inspect.getsource(trackio_run.Run.__init__)
    assert "self._next_step = 0 if max_step is None else max_step + 1" in source
    assert "max_step = self._safe_get_max_step_for_run()" in source


def test_trackers_name_metrics_as_transformers_does() -> None:
    row = {"loss": 1.0, "eval_loss": 2.0, "test_rewards/margins": 3.0, "rewards/chosen": 4.0, "evaluated": 5.0}
    assert by_split(row) == rewrite_logs(row)


@pytest.mark.parametrize("name", ["_prepare_dataset", "_precompute_ref_logps"])
def test_the_methods_that_are_overridden_exist_with_the_same_arguments(name: str) -> None:
    ours = inspect.signature(getattr(PretokenizedDPOTrainer, name)).parameters
    theirs = inspect.signature(getattr(DPOTrainer, name)).parameters
    assert list(ours) == list(theirs)
    assert f"self.{name}(" in inspect.getsource(DPOTrainer.__init__)


def test_the_constructor_upstream_has_a_reference_of_its_own_to_be_kept_from() -> None:
    source = inspect.getsource(DPOTrainer.__init__)
    assert "self.ref_model = create_model_from_path(" in source
    assert "hash_module(" in source
    assert {"create_model_from_path", "hash_module"} <= vars(dpo_trainer).keys()
    assert "disable_gradient_checkpointing(self.model" in inspect.getsource(DPOTrainer.compute_ref_log_probs)
    assert "disable_gradient_checkpointing" in vars(dpo_trainer)


def test_the_accuracies_of_pairs_are_gathered_before_three_other_values() -> None:
    """`PretokenizedDPOTrainer._compute_loss` takes them from there, by their place from the end."""
    names = re.findall(r"self\.accelerator\.gather\w*\((\w+)\)", inspect.getsource(DPOTrainer._compute_loss))
    last = ["chosen_rewards", "rejected_rewards", "reward_accuracies", "margins", "chosen_logps", "rejected_logps"]
    assert names[-6:] == last
    assert last[_ACCURACIES] == "reward_accuracies"
    assert last[_MARGINS] == "margins"


def test_a_step_is_followed_by_an_evaluation_that_may_be_left() -> None:
    source = inspect.getsource(Trainer._maybe_log_save_evaluate)
    evaluates, saves = source.index("metrics = self._evaluate("), source.index("if self.control.should_save:")
    assert evaluates < saves


def test_whether_training_is_over_is_asked_after_a_step_only() -> None:
    """Without `PretokenizedDPOTrainer._run_epoch` a run that resumes from its last step would take another step."""
    loop, epoch = (inspect.getsource(getattr(Trainer, name)) for name in ("_inner_training_loop", "_run_epoch"))
    assert loop.index("for epoch in range(epochs_trained") < loop.index("self._run_epoch(")
    assert "max_steps" not in loop.partition("for epoch in range(")[2]
    assert "self.state.max_steps" not in epoch.partition("for update_step in range(")[0]


def test_the_trainer_asks_for_the_micro_batches_of_a_step_before_it_begins() -> None:
    """`PolicyTrainer` writes the answers of a step there, in an order of prompts of its own."""
    epoch = inspect.getsource(Trainer._run_epoch)
    assert epoch.index("self.get_batch_samples(epoch_iterator, num_batches") < epoch.index("on_step_begin")
    assert list(inspect.signature(Trainer.get_batch_samples).parameters)[1:] == [
        "epoch_iterator",
        "num_batches",
        "device",
    ]
    assert "self._get_train_sampler" in inspect.getsource(Trainer.get_train_dataloader)


def test_inputs_keep_their_precision_where_transformers_would_round_them() -> None:
    """Under DeepSpeed it gives floating-point inputs the model's precision; ours are sums of log-probabilities."""
    assert "deepspeed_plugin" in inspect.getsource(Trainer._prepare_input)
    trainer = object.__new__(PretokenizedDPOTrainer)
    trainer.args = SimpleNamespace(device=torch.device("cpu"))
    trainer.is_deepspeed_enabled = True
    prepared = trainer._prepare_input({"ref_chosen_logps": torch.tensor([-300.7]), "ids": [torch.tensor([1])]})
    assert prepared["ref_chosen_logps"].dtype == torch.float32
    assert prepared["ids"][0].tolist() == [1]


def test_the_reference_pass_of_a_batch_is_still_trls() -> None:
    assert list(inspect.signature(DPOTrainer.compute_ref_log_probs).parameters) == ["self", "model", "inputs"]


def test_the_collator_still_reads_our_columns() -> None:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    batch = DataCollatorForPreference(pad_token_id=0)([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4]}])
    assert batch["input_ids"].tolist() == [[1, 2, 0], [1, 3, 4]]
    assert batch["completion_mask"].tolist() == [[0, 1, 0], [0, 1, 1]]


def test_trl_knows_every_loss_of_the_schema() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    missing = [loss for loss in get_args(DpoLoss) if f'"{loss}"' not in source]
    assert not missing


def test_trl_takes_one_mean_of_the_pairs_losses_after_the_weights_of_wpo() -> None:
    """engine/pair_weights.py multiplies what these means are taken of."""
    source = inspect.getsource(DPOTrainer._compute_loss)
    forward, rest = source.split("outputs = model(**model_kwargs, labels=labels, fused_lm_head=True)")
    assert ".mean(" not in forward
    of_losses, _ = rest.split("if self.aux_loss_enabled:")
    assert of_losses.count(".mean()") == 2
    tokens, weighting, mean = map(of_losses.index, (
        "batch_loss = -chosen_per_token_logps[chosen_mask.bool()].mean()",
        "per_sequence_loss *= chosen_weights * rejected_weights",
        "loss += per_sequence_loss.mean() * loss_weight",
    ))  # fmt: skip
    assert tokens < weighting < mean
    assert "per_sequence_loss = batch_loss.expand(batch_size)" in of_losses


def test_trl_moves_its_reference_as_ours_moves() -> None:
    from trl.trainer.callbacks import SyncRefModelCallback

    mixes = inspect.getsource(SyncRefModelCallback._sync_target_model)
    assert "target_param.data.mul_(1.0 - alpha).add_(copy_param.data, alpha=alpha)" in mixes
    assert "state.global_step % args.ref_model_sync_steps == 0" in inspect.getsource(SyncRefModelCallback.on_step_end)
    names = {field.name: field.default for field in fields(DPOConfig)}
    ours = DpoParams.model_fields
    for name in ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"):
        assert names[name] == ours[name].default


def test_a_moving_reference_is_saved_and_restored_with_the_policy() -> None:
    """`_save` and `_load_from_checkpoint` are overridden, and TRL reads the reference's values from the batch."""
    ours, theirs = (getattr(each, "_load_from_checkpoint") for each in (PretokenizedDPOTrainer, Trainer))  # noqa: B009
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert "self._load_from_checkpoint(resume_from_checkpoint" in inspect.getsource(Trainer.train)
    assert "self._save(output_dir)" in inspect.getsource(Trainer.save_model)
    source = inspect.getsource(DPOTrainer)
    assert 'ref_chosen_logps, ref_rejected_logps = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]' in source
    assert "if self.ref_model is None and is_peft_model(self.model):" in inspect.getsource(
        DPOTrainer.compute_ref_log_probs
    )


def test_transformers_knows_every_scheduler_and_optimizer_of_the_schema() -> None:
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    for field, known in (("lr_scheduler", SchedulerType), ("optimizer", OptimizerNames)):
        names = get_args(Training.model_fields[field].annotation)
        assert set(names) <= {entry.value for entry in known}


def test_the_arguments_that_are_set_exist() -> None:
    names = {field.name for field in fields(DPOConfig)}
    assert {"precompute_ref_log_probs", checkpointing_argument(), "logging_nan_inf_filter", "warmup_steps"} <= names


def test_trl_asks_one_name_whether_to_score_unlabelled_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """engine/head.py replaces it. Counts the positions that TRL's head gives to its kernel."""
    from trl.trainer import utils
    from trl.trainer.utils import add_fused_lm_head

    scored: list[int] = []
    kernel = utils._ChunkedLogProbFunction  # pyright: ignore[reportPrivateImportUsage]

    class Counting:
        @staticmethod
        def apply(hidden: torch.Tensor, *others: Any) -> Any:
            scored.append(len(hidden))
            return kernel.apply(hidden, *others)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    monkeypatch.setattr(utils, "_use_triton", chunked_logprob._use_triton)
    model = make_model()
    add_fused_lm_head(model)
    ids = torch.arange(3, 23).reshape(2, 10)
    labels = ids.masked_fill(torch.arange(10) < 6, -100)
    before = model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs
    prepare_head("cpu")
    after = model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs
    assert scored == [18, 8]
    torch.testing.assert_close(after, before)


def test_the_height_of_a_tile_is_read_when_the_head_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """engine/head.py lowers it on a CPU. Counts the tiles that 600 positions are folded in."""
    folded: list[int] = []
    fold = chunked_logprob._forward_tile

    def counting(tile: torch.Tensor, *others: Any, **more: Any) -> None:
        folded.append(len(tile))
        fold(tile, *others, **more)

    monkeypatch.setattr(chunked_logprob, "_forward_tile", counting)
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", 4096)
    hidden, weight, targets = torch.randn(600, 8), torch.randn(50, 8), torch.randint(50, (600,))
    before, *_ = chunked_logprob.ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32768)
    prepare_head("cpu")
    after, *_ = chunked_logprob.ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32768)
    assert folded == [600, 128, 128, 128, 128, 88]
    torch.testing.assert_close(after, before)


def test_trls_head_has_the_names_that_plans_stand_in_for() -> None:
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    for name in ("TOKEN_CHUNK_SIZE", "_forward_tile", "_backward_tile", "_addmm_fp32"):
        assert hasattr(chunked_logprob, name), name
    parameters = list(inspect.signature(utils._ChunkedLogProbFunction.forward).parameters)  # pyright: ignore[reportPrivateImportUsage]
    expected = ["hidden", "weight", "bias", "targets", "temperature", "chunk_size"]
    expected += ["final_logit_softcapping", "logit_scale", "outputs"]
    assert parameters == ["ctx", *expected]
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE > 0


def test_transformers_looks_attention_up_where_it_is_registered_and_hands_keywords_down() -> None:
    """engine/attention.py stands in for kinds of attention, and sends its packing through the layers by name."""
    model = make_model()
    assert model.config._attn_implementation == "sdpa"
    seen: list[Any] = []
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module: Any, *tensors: Any, **kwargs: Any) -> Any:
        seen.append((kwargs.pop(KEYWORD), tensors[3]))
        return plain(module, *tensors, **kwargs)

    AttentionInterface.register("sdpa", spy)
    try:
        mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
        marker = object()
        model.base_model(input_ids=torch.ones(1, 4, dtype=torch.long), attention_mask=mask, **{KEYWORD: marker})
    finally:
        AttentionInterface.register("sdpa", plain)
    assert [found is marker for found, _ in seen] == [True, True]
    assert all(passed is mask for _, passed in seen)  # four dimensions go through as they are


def test_trls_head_calls_the_backbone_as_prefix_sharing_expects() -> None:
    from trl.trainer.utils import add_fused_lm_head

    model = make_model()
    add_fused_lm_head(model)
    calls: list[dict[str, Any]] = []
    plain = model.base_model.forward
    model.base_model.forward = lambda *args, **kwargs: (calls.append({"args": args, **kwargs}), plain(**kwargs))[1]
    ids = torch.ones(2, 4, dtype=torch.long)
    model(input_ids=ids, attention_mask=ids, use_cache=False, labels=ids, fused_lm_head=True)
    assert [set(call) for call in calls] == [{"args", "input_ids", "attention_mask", "use_cache"}]
    assert calls[0]["args"] == ()
    assert calls[0]["use_cache"] is False


def test_the_variable_length_kernel_takes_the_arguments_that_it_is_given() -> None:
    """The kernel runs on CUDA only; this is all that can be seen without."""
    from torch.nn.attention.varlen import varlen_attn

    names = list(inspect.signature(varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"scale", "window_size"} <= set(names)
    assert ("enable_gqa" in names) == varlen._takes_fewer_key_heads(varlen_attn)


def test_the_trainers_count_under_the_names_that_checkpoints_keep() -> None:
    """engine/counts.py and engine/checkpoints/loop_state.py read and set them."""
    loop = inspect.getsource(Trainer._inner_training_loop)
    divides_by_own_steps = "_initial_global_step" in inspect.getsource(Trainer._finalize_training)  # not 5.17
    own_steps = ("_initial_global_step",) if divides_by_own_steps else ()
    for name in ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", *own_steps):
        assert f"self.{name} = " in loop, name
    assert "on_train_begin" in loop[loop.index("self._globalstep_last_logged = ") :]  # where they are put back
    counting = inspect.getsource(DPOTrainer._compute_loss)
    assert "self._total_train_tokens += " in counting
    assert "self._metrics[mode]" in counting


def test_the_layers_that_bitsandbytes_would_repack_can_be_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AVX512-BF16, whichever this one is."""
    import bitsandbytes as bnb

    from dpo_recipes.model.quantize import REPACKS, keep_differentiable

    repacked: list[Any] = []
    monkeypatch.setattr(bnb.nn.modules, "_convert_weight_packed_for_cpu", lambda *args: repacked.append(args) or args)
    layer = bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4").to("cpu").eval()  # pyright: ignore[reportPrivateImportUsage]
    assert hasattr(layer, REPACKS)
    setattr(layer, REPACKS, True)
    with torch.no_grad():
        layer(torch.ones(1, 64))
    assert len(repacked) == 1
    keep_differentiable(layer)
    with torch.no_grad():
        layer(torch.ones(1, 64))
    assert len(repacked) == 1
    x = torch.ones(2, 64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_the_losses_that_use_label_smoothing() -> None:
    branches = re.split(r"if loss_type == ", inspect.getsource(DPOTrainer._compute_loss))[1:]
    used = {re.match(r'"(\w+)"', branch)[1] for branch in branches if "self.label_smoothing" in branch}  # type: ignore[index]
    assert len(branches) == len(get_args(DpoLoss))
    assert used == set(SMOOTHED)


def test_trl_sends_weights_and_prompts_to_vllm_as_ours_expects() -> None:
    """`_iter_named_params` is overridden; the settings of the constructor and of a request are TRL's names."""
    from trl.generation.vllm_client import VLLMClient
    from trl.generation.vllm_generation import VLLMGeneration

    assert "in self._iter_named_params()" in inspect.getsource(VLLMGeneration.sync_weights)
    made = inspect.signature(VLLMGeneration).parameters
    assert {
        "mode", "server_base_url", "server_timeout", "group_port", "gpu_memory_utilization", "max_model_length",
        "max_num_seqs", "enable_sleep_mode", "trust_remote_code", "temperature", "top_p", "max_completion_length",
        "logprobs",
    } <= made.keys()  # fmt: skip
    generate = inspect.getsource(VLLMGeneration.generate)
    assert "generation_kwargs.update(self.generation_kwargs)" in generate  # `n` and `seed` come in there
    assert "model=model.name_or_path" in inspect.getsource(VLLMGeneration._init_vllm)
    asked = inspect.signature(VLLMClient.generate).parameters
    assert {"prompts", "n", "temperature", "top_p", "max_tokens", "logprobs", "generation_kwargs"} <= asked.keys()
