"""The trainer of objectives whose policy writes answers that are rewarded.

TRL's RLOOTrainer and GRPOTrainer are not used; docs/adr/0024 says why. The losses are compared with theirs by a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback
from trl.trainer.utils import add_fused_lm_head

from dpo_recipes.data.rows import Row
from dpo_recipes.data.tokenize import ANSWERS, PROMPT, ROW
from dpo_recipes.engine.backbone import in_evaluation_mode
from dpo_recipes.engine.collators import (
    ADVANTAGES,
    OLD_LOGPS,
    OLD_TOKEN_LOGPS,
    PROMPT_MASK,
    REFERENCE_TOKEN_LOGPS,
    SAMPLING_WEIGHTS,
    PromptCollator,
)
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.loss_trainer import LossTrainer
from dpo_recipes.engine.metric_counts import RowMetricCounts
from dpo_recipes.engine.micro_batch import MICRO_BATCH
from dpo_recipes.engine.policy_batches import (
    Batch,
    Sums,
    correct_sampler,
    load_batches,
    normalize_advantages,
    save_batches,
)
from dpo_recipes.engine.policy_sampler import StepsSampler
from dpo_recipes.engine.rollouts import Prompts, Rollout, check_prompts, rollout_writer
from dpo_recipes.model.build import ModelBundle, reload_base
from dpo_recipes.objectives.policy import PolicyObjective, PolicyParams
from dpo_recipes.objectives.scores import Scores


class PolicyTrainer(LossTrainer):
    """Writes and scores the answers of a whole optimizer step, and then computes its micro-batches as those of any
    other objective: a row with its K answers is one group.

    `get_batch_samples` is transformers' (5.24), which asks it for the micro-batches of a step.
    """

    objective: PolicyObjective
    params: PolicyParams

    def __init__(
        self, bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any], callbacks: list[TrainerCallback]
    ) -> None:
        self.bundle = bundle
        self.reference_policy: Any = None
        """The untouched base of a full fine-tuning; with an adapter it is the policy without it."""
        self._step_batches: list[Batch] = []
        """The micro-batches of the last answers that were written."""
        super().__init__(bundle, context, datasets, callbacks)

    def _prepare(self, datasets: dict[str, Any]) -> None:
        pad = self.data_collator.pad_token_id
        self.answer_collator, self.data_collator = self.data_collator, PromptCollator(pad)
        check_prompts(self._row("train", self.train_dataset[0][ROW]), self.params)
        super()._prepare(datasets)
        self.writer = rollout_writer(self.model, self.accelerator, self.bundle, self.context)
        if self.has_reference and not isinstance(self.model, PeftModel):
            self.reference_policy = reload_base(self.context.recipe, self.bundle, self.bundle.device)
            self.reference_policy.eval().requires_grad_(False)
            add_fused_lm_head(
                self.reference_policy, temperature=self.params.temperature, outputs=("log_probs", "entropy")
            )

    @property
    def has_reference(self) -> bool:
        """Whether the KL divergence from the untouched base has a weight."""
        return self.objective.reference(self.params) != "none"

    def _row(self, split: str, place: int) -> Row:
        assert self.context.row_of is not None, "a trainer that is only measured writes no answers"
        return self.context.row_of(split, place)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [PROMPT, ROW]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        per_process = args.per_device_train_batch_size * args.gradient_accumulation_steps
        per_step = per_process * self.distributed.num_processes
        return StepsSampler(len(rows), per_step, self.params.num_iterations, args.seed)

    def collate_trial(self, rows: list[Any]) -> Batch:
        """The rows with answers of the greatest length, of which no two begin alike."""
        count, length = self.params.num_generations, self.params.max_new_tokens
        pad = self.answer_collator.pad_token_id
        answers = [[place, *[pad] * (length - 1)] for place in range(count)]
        batch = self.answer_collator([{PROMPT: row[PROMPT], ANSWERS: answers} for row in rows])
        return {**batch, ADVANTAGES: torch.zeros(len(rows), count)}

    # A step

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any) -> tuple[Any, Any]:
        """The micro-batches of the next step, with answers that the policy has just written, or with those of the step
        before if they serve several."""
        prompts = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not prompts:
            return prompts, None
        if not self._step_batches or self.state.global_step % self.params.num_iterations == 0:
            self._step_batches = self._write_step(prompts)
        # A step takes its micro-batch out of each.
        of_step = [{MICRO_BATCH: batch[MICRO_BATCH]} if MICRO_BATCH in batch else {} for batch in prompts]
        batches = [{**batch, **more} for batch, more in zip(self._step_batches, of_step, strict=True)]
        return batches, self._get_num_items_in_batch(batches, device)

    def _write_step(self, prompts: list[Batch]) -> list[Batch]:
        self.writer.refresh()
        rollouts = self.writer.write(self._prompts(prompts, "train"), self.args.seed, "train", self.state.global_step)
        batches = [
            self._scored(rollout, batch, is_evaluation=False) for rollout, batch in zip(rollouts, prompts, strict=True)
        ]
        if self.objective.normalizes_step(self.params):
            normalize_advantages(batches, list(map(self._counts, prompts)), self.accelerator)
        return batches

    def _prompts(self, batches: list[Batch], split: str) -> list[Prompts]:
        of_batches = []
        for batch in batches:
            ids = [row[mask.bool()].tolist() for row, mask in zip(batch[PROMPT], batch[PROMPT_MASK], strict=True)]
            places = batch[ROW].tolist()
            of_batches.append(Prompts(ids, [self._row(split, place) for place in places], places))
        return of_batches

    def _scored(self, rollout: Rollout, prompts: Batch, *, is_evaluation: bool) -> Batch:
        """The micro-batch of a rollout with its advantages and, as far as the loss needs them, the log-probabilities of
        the policy now and of the reference; for an evaluation, only the rewards less the KL penalty. Counts the metrics
        of the rollout."""
        device, params, objective = self.accelerator.device, self.params, self.objective
        rows = [{PROMPT: ids, ANSWERS: group} for ids, group in zip(rollout.prompts, rollout.answers, strict=True)]
        batch = {name: tensor.to(device) for name, tensor in self.answer_collator(rows).items()}
        in_reward = objective.puts_kl_into_reward(params)
        keeps = params.num_iterations > 1
        sampler = None if is_evaluation else rollout.sampler_logps
        needs_old = in_reward or keeps or sampler is not None or (is_evaluation and self.has_reference)
        old = self._policy_scores(batch) if needs_old else None
        reference = self._reference_scores(batch) if self.has_reference else None
        kl = None
        if old is not None and reference is not None:
            assert old.logps is not None
            assert reference.logps is not None
            kl = old.logps - reference.logps
        of_sampler: Sums = {}
        if sampler is not None and old is not None:
            assert old.of_tokens is not None
            batch[SAMPLING_WEIGHTS], of_sampler = correct_sampler(params.generation, old.of_tokens, sampler)
        mode = "eval" if is_evaluation else "train"
        counts = self.metric_counts
        assert isinstance(counts, RowMetricCounts), "as the trainer of all objectives with a loss has them"
        values = {**self._values(rollout, kl, old), **of_sampler} if self._counts(prompts) else {}
        counts.add(mode, values, 0)
        if is_evaluation:
            penalty = 0.0 if kl is None else params.beta * kl.cpu()
            batch[_GAIN] = rollout.rewards - penalty
            return batch
        rewards = objective.clipped(params, rollout.rewards, rollout.is_cut).to(device)
        batch[ADVANTAGES] = objective.advantages(params, rewards, kl if in_reward else None)
        if keeps and old is not None:
            assert old.logps is not None
            batch[OLD_LOGPS] = old.logps
            if old.of_tokens is not None:
                batch[OLD_TOKEN_LOGPS] = old.of_tokens.logps
        if reference is not None and reference.of_tokens is not None:
            batch[REFERENCE_TOKEN_LOGPS] = reference.of_tokens.logps
        return batch

    @torch.no_grad()
    def _policy_scores(self, batch: Batch) -> Scores:
        with in_evaluation_mode(self.model), self.accelerator.autocast():
            return self.scores(self.model, batch)[0]

    def _reference_scores(self, batch: Batch) -> Scores:
        if self.reference_policy is None:
            return self.reference_scores(self.model, batch)
        with torch.no_grad(), self.accelerator.autocast():
            return self.scores(self.reference_policy, batch)[0]

    def _values(self, rollout: Rollout, kl: torch.Tensor | None, old: Scores | None) -> Sums:
        values: Sums = dict(rollout.metrics())
        if kl is not None and old is not None:
            assert old.num_tokens is not None
            values["kl"] = kl.sum(), old.num_tokens.sum()
        return values

    def _counts(self, batch: Batch) -> bool:
        return MICRO_BATCH not in batch or batch[MICRO_BATCH].has_rows(self.distributed.rank)

    def scores(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Scores, torch.Tensor | None]:
        """What the model computes of a micro-batch, with what is known of its answers."""
        scores, router_loss = super().scores(model, inputs)
        scores.advantages, scores.sampling_weights = inputs.get(ADVANTAGES), inputs.get(SAMPLING_WEIGHTS)
        assert scores.logps is not None
        # Answers of this step were written by the policy as it is.
        scores.old_logps = inputs.get(OLD_LOGPS, scores.logps.detach())
        if scores.of_tokens is not None:
            scores.of_tokens.old_logps = inputs.get(OLD_TOKEN_LOGPS)
            scores.of_tokens.reference_logps = inputs.get(REFERENCE_TOKEN_LOGPS)
        return scores, router_loss

    # An evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the weights as they are, which may be those of another checkpoint."""
        self.writer.refresh()
        return super().evaluate(*args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """Minus the reward of answers to a batch of held-out prompts, plus the KL penalty. The same random numbers are
        used in each evaluation."""
        self.micro_batch = inputs.get(MICRO_BATCH)
        split = "test" if self.eval_dataset is self.test_dataset else "eval"
        (rollout,) = self.writer.write(self._prompts([inputs], split), self.args.seed, split, repeats=True)
        gain = self._scored(rollout, inputs, is_evaluation=True)[_GAIN]
        return -gain.mean().to(self.accelerator.device), None, None

    # A checkpoint

    def save_more(self, folder: Path) -> None:
        """Write the answers of this process that further steps will use."""
        if not self._step_batches or self.state.global_step % self.params.num_iterations == 0:
            return
        save_batches(self._step_batches, folder, self.distributed.rank)

    def load_more(self, folder: Path) -> None:
        """Restore them. Another number of processes shares a step in another way, so it writes new answers for the rest
        of the steps that they were for."""
        rank, count = self.distributed.rank, self.distributed.num_processes
        self._step_batches = load_batches(folder, rank, count, self.accelerator.device.type)


_GAIN = "gain"
"""The key of the rewards less the KL penalty, [B, K], of a batch of an evaluation."""
