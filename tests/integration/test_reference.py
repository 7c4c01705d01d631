"""Reference log-probabilities: the same as TRL's own, computed once, and found again only where they are the same."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sharing import lora, make_model, make_pairs, recipe, train_ours, train_trls

from dpo_recipes.cache import cache_folder
from dpo_recipes.engine import reference_parts
from dpo_recipes.engine.callbacks import progress
from dpo_recipes.engine.callbacks.progress import PassProgress
from dpo_recipes.engine.callbacks.stop import StopRequest
from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.engine.prefix_sharing import share_prefixes
from dpo_recipes.engine.reference import batches_by_tokens, hash_rows, reference_logps
from dpo_recipes.engine.reference_parts import ReferenceParts
from dpo_recipes.errors import Interrupted, RunError
from dpo_recipes.events import EventLog
from dpo_recipes.launch.ranks import Rank
from dpo_recipes.objectives.dpo import OBJECTIVE as DPO

PAIRS = make_pairs(12)
TOKENS = np.array([len(pair["prompt_ids"]) + sum(map(len, pair["answer_ids"])) for pair in PAIRS])
JOB = {"max_steps": 1}


def _train(tmp_path: Path, pairs: Any = PAIRS, model: Any = None, adapter: Any = None, **job: Any) -> Any:
    objective = job.pop("objective", None)
    training = recipe({**JOB, **job}, objective)
    return train_ours(tmp_path, model or make_model(), pairs, training, adapter or lora()).trainer


def _logps(trainer: Any) -> np.ndarray:
    """[2, rows], of our trainer or of TRL's."""
    rows = trainer.train_dataset
    if "reference_logps" in rows.column_names:
        return np.array(rows["reference_logps"]).T
    return np.array([rows["ref_chosen_logps"], rows["ref_rejected_logps"]])


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_they_are_trls_in_the_order_of_the_pairs(tmp_path: Path, adapter: str) -> None:
    adapters = [None if adapter == "full" else lora() for _ in range(2)]
    ours = train_ours(tmp_path, make_model(), PAIRS, recipe(JOB), adapters[0]).trainer
    trls = train_trls(tmp_path, make_model(), PAIRS, recipe(JOB), adapters[1]).trainer
    np.testing.assert_allclose(_logps(ours), _logps(trls), rtol=1e-5)
    assert ours.reference_known == {"train": False}


def _other_learning_rate() -> dict[str, Any]:
    return {"learning_rate": 1e-5}


def _other_adapter() -> dict[str, Any]:
    other = lora()
    other.r, other.target_modules = 2, ["q_proj"]
    return {"adapter": other}


def _other_loss() -> dict[str, Any]:
    return {"objective": {"loss_type": "ipo", "beta": 0.3}}


@pytest.mark.parametrize("change", [dict, _other_learning_rate, _other_adapter, _other_loss])
def test_a_run_that_has_the_same_reference_finds_it(tmp_path: Path, change: Callable[[], dict[str, Any]]) -> None:
    first, second = _train(tmp_path), _train(tmp_path, **change())
    assert (first.reference_known, second.reference_known) == ({"train": False}, {"train": True})
    assert np.array_equal(_logps(first), _logps(second))


def _other_weights() -> dict[str, Any]:
    model = make_model()
    with torch.no_grad():
        model.base_model.layers[1].mlp.down_proj.weight[3, 3] += 1e-3
    return {"model": model}


def _other_rotation() -> dict[str, Any]:
    return {"model": make_model(rope_parameters={"rope_type": "default", "rope_theta": 5000.0})}


def _other_order() -> dict[str, Any]:
    return {"pairs": PAIRS[::-1]}


def _other_token() -> dict[str, Any]:
    chosen, rejected = PAIRS[0]["answer_ids"]
    return {"pairs": [{**PAIRS[0], "answer_ids": [[5, *chosen[1:]], rejected]}, *PAIRS[1:]]}


def _other_boundary() -> dict[str, Any]:
    """The same ids in the same order, but one of the prompt's counts as part of the answers."""
    prompt = PAIRS[0]["prompt_ids"]
    moved = {"prompt_ids": prompt[:-1], "answer_ids": [prompt[-1:] + ids for ids in PAIRS[0]["answer_ids"]]}
    return {"pairs": [moved, *PAIRS[1:]]}


@pytest.mark.parametrize("change", [_other_weights, _other_rotation, _other_order, _other_token, _other_boundary])
def test_a_run_that_has_another_reference_does_not(tmp_path: Path, change: Callable[[], dict[str, Any]]) -> None:
    first, second = _train(tmp_path), _train(tmp_path, **change())
    assert second.reference_known == {"train": False}
    assert not np.array_equal(_logps(first), _logps(second))


def test_another_alpha_of_some_modules_is_another_reference(tmp_path: Path) -> None:
    """The weights of an adapter that is continued are the same; what they are multiplied with is not."""
    from peft import LoraConfig, get_peft_model

    found = []
    for alphas in ({}, {"v_proj": 64}, {}):
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", alpha_pattern=alphas)
        torch.manual_seed(3)
        model = get_peft_model(make_model(), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
        found.append(train_ours(tmp_path, model, PAIRS, recipe(JOB)).trainer)
    assert [trainer.reference_known["train"] for trainer in found] == [False, False, True]
    assert not np.array_equal(_logps(found[0]), _logps(found[1]))
    assert np.array_equal(_logps(found[0]), _logps(found[2]))


def test_code_that_comes_with_a_model_counts(tmp_path: Path) -> None:
    """transformers keeps such code in modules of its own; the same class with other lines beside it."""
    found = []
    for line in ("FACTOR = 1", "FACTOR = 2"):
        path = tmp_path / "foreign_model.py"
        path.write_text(f"from transformers import LlamaForCausalLM\n{line}\nclass Foreign(LlamaForCausalLM): pass\n")
        spec = importlib.util.spec_from_file_location("foreign_model", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["foreign_model"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = make_model()
        model.__class__ = module.Foreign
        found.append(_train(tmp_path, model=model).reference_known["train"])
    del sys.modules["foreign_model"]
    assert found == [False, False]


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    first = _train(tmp_path)
    (entry,) = (tmp_path / "cache" / "reference").glob("*/logps.npy")
    entry.write_bytes(entry.read_bytes()[:-4] + b"\0\0\0\0")
    second = _train(tmp_path)
    assert second.reference_known == {"train": False}
    assert np.array_equal(_logps(first), _logps(second))


class Ended(Exception):
    """What ends a pass."""


class Referee:
    """As much of a trainer as a reference pass asks for. A pair's log-probabilities are its number and its half; the
    pass ends in the batch of number `ends_in`, and `seen` are the pairs of those before."""

    ref_model = None
    is_deepspeed_enabled = is_fsdp_enabled = False
    args = SimpleNamespace(per_device_eval_batch_size=2)
    accelerator = SimpleNamespace(device="cpu")
    context = SimpleNamespace(objective=DPO)

    def __init__(
        self,
        model: Any,
        ends_in: int | None = None,
        processes: DistributedContext = SINGLE_PROCESS,
        stop: StopRequest | None = None,
    ) -> None:
        self.model, self.distributed, self.ends_in, self.stop = model, processes, ends_in, stop
        self.reference_progress = PassProgress("reference")
        self.seen: list[list[int]] = []
        self.modes: list[list[bool]] = []

    def data_collator(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor([PAIRS.index(row) for row in rows])}

    def compute_ref_log_probs(self, of: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.modes.append([module.training for module in of.modules()])
        if len(self.seen) == self.ends_in:
            if self.stop:
                self.stop._on_signal(signal.SIGTERM, None)
            raise Ended
        self.seen.append(batch["number"].tolist())
        return batch["number"], batch["number"] / 2

    def compute(self) -> np.ndarray:
        trainer: Any = self
        return reference_logps(trainer, Dataset.from_list(PAIRS), "train", ReferenceParts("key", self.distributed.rank))


WHOLE = np.array([range(len(PAIRS)), [number / 2 for number in range(len(PAIRS))]])


def test_a_value_that_is_no_number_names_its_pair_and_is_not_kept() -> None:
    referee: Any = Referee(make_model())
    compute, referee.locate = referee.compute_ref_log_probs, lambda split, row: f"{split}.jsonl:{row}"
    third = batches_by_tokens(TOKENS, 2)[2]

    def overflow(of: Any, batch: Any) -> Any:
        chosen, rejected = compute(of, batch)
        return chosen, rejected.masked_fill(batch["number"] == third[-1], -np.inf)

    referee.compute_ref_log_probs = overflow
    with pytest.raises(RunError, match=f"T608.*pair {third[-1]} of `train`"):
        referee.compute()
    found = ReferenceParts("key", 0).read(2, len(PAIRS))
    assert sorted(found.is_known.nonzero()[0]) == sorted(pair for batch in referee.seen[:2] for pair in batch)
    assert np.isfinite(found.values).all()
    assert np.array_equal(Referee(make_model()).compute(), WHOLE)


def test_a_base_without_numbers_is_no_fault_of_packed_rows(tmp_path: Path) -> None:
    model = make_model()
    model.base_model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    sharing = share_prefixes(model, "auto")
    sharing.verify()
    assert "not finite in padded rows either" in sharing.describe()
    sharing.remove()
    with pytest.raises(RunError, match="T608"):
        _train(tmp_path, model=model)
    assert not list(cache_folder().glob("reference/*/logps.npy"))


def test_the_model_is_in_training_mode_again_afterwards() -> None:
    model = make_model().train()
    model.base_model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    referee = Referee(model, ends_in=0)
    with pytest.raises(Ended):
        referee.compute()
    assert not any(referee.modes[0])
    assert [module.training for module in model.modules()] == modes


def test_a_pass_that_was_stopped_can_be_gone_on_with() -> None:
    """Exit code 75 where it has computed anything in this attempt, else the one of a stop with nothing to show."""
    model = make_model()
    request = StopRequest()
    for ends_in, code in ((1, "I101"), (0, "I130")):
        request.is_set = False
        with pytest.raises(Interrupted) as caught:
            Referee(model, ends_in, stop=request).compute()
        assert caught.value.findings[0].code == code
    assert np.array_equal(Referee(model).compute(), WHOLE)


def test_a_pass_that_was_ended_goes_on_with_the_same_batches() -> None:
    model = make_model()
    (undisturbed := Referee(model)).compute()
    ReferenceParts("key", 0).remove()
    for ends_in in (1, 0, 2):
        with pytest.raises(Ended):
            Referee(model, ends_in).compute()
    last = Referee(model)
    assert np.array_equal(last.compute(), WHOLE)
    assert last.seen == undisturbed.seen[3:]


def test_it_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SHARE_EVERY_S", 0.0)
    model = make_model()
    shares: list[list[float]] = []
    for ends_in in (2, None):
        referee = Referee(model, ends_in)
        with EventLog(tmp_path / "events.jsonl") as events, contextlib.suppress(Ended):
            referee.reference_progress = PassProgress("reference", events.emit)
            referee.compute()
        events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        assert {(event["event"], event["name"], event["detail"]) for event in events} == {
            ("share", "reference", "train")
        }
        shares.append([event["done"] for event in events])
    of_batches = [TOKENS[rows].sum() / TOKENS.sum() for rows in batches_by_tokens(TOKENS, 2)]
    assert shares[0] + shares[1] == pytest.approx(np.cumsum(of_batches), abs=1e-4)


def test_it_goes_on_after_a_kill_from_what_was_written_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    monkeypatch.setattr(reference_parts, "_KEPT_EVERY_S", 0.0)
    write = ReferenceParts.write
    kept = lambda self, logps: None if sys.exc_info()[0] else write(self, logps)  # noqa: E731
    monkeypatch.setattr(ReferenceParts, "write", kept)  # a kill gives no time to write
    with pytest.raises(Ended):
        Referee(model, ends_in=2).compute()
    monkeypatch.setattr(reference_parts, "_KEPT_EVERY_S", 60.0)
    with pytest.raises(Ended):
        Referee(model, ends_in=1).compute()
    last = Referee(model)
    assert np.array_equal(last.compute(), WHOLE)
    assert len(last.seen) == len(batches_by_tokens(TOKENS, 2)) - 2


def test_other_numbers_of_processes_share_what_there_is() -> None:
    model = make_model()
    for rank in (0, 1):
        of_two: Any = DistributedContext(Rank(index=rank, num_processes=2))
        object.__setattr__(of_two, "share", lambda value: reference_parts.Logps(2, len(PAIRS)))
        with pytest.raises(Ended):
            Referee(model, ends_in=1, processes=of_two).compute()
    first, second = batches_by_tokens(TOKENS, 2)[:2]
    found = ReferenceParts("key", 0).read(2, len(PAIRS))
    assert found.is_known.nonzero()[0].tolist() == sorted(first + second)
    last = Referee(model)
    assert np.array_equal(last.compute(), WHOLE)
    assert not {*first, *second} & {pair for batch in last.seen for pair in batch}


def _cut(data: bytes) -> bytes:
    return data[:-30]


def _flip(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


def _empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [_cut, _flip, _empty])
def test_damaged_parts_are_computed_again(damage: Callable[[bytes], bytes]) -> None:
    model = make_model()
    with pytest.raises(Ended):
        Referee(model, ends_in=2).compute()
    (path,) = cache_folder().glob("reference/key.parts/0-*.npz")
    path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(Referee(model).compute(), WHOLE)


def test_a_cache_that_cannot_be_written_ends_no_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(reference_parts, "_KEPT_EVERY_S", 0.0)
    assert np.array_equal(Referee(make_model()).compute(), WHOLE)


def test_parts_are_removed_when_the_pass_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_parts, "_KEPT_EVERY_S", 0.0)
    _train(tmp_path)
    assert [path.suffix for path in (tmp_path / "cache" / "reference").iterdir()] == [""]


def test_batches_have_every_row_once_the_longest_first_and_no_more_tokens_than_an_average_batch() -> None:
    tokens = np.array([10, 500, 20, 30, 20, 20])
    batches = batches_by_tokens(tokens, 2)  # two average pairs have 200 tokens
    assert batches == [[1], [3, 2, 4, 5, 0]]
    assert sorted(row for batch in batches for row in batch) == list(range(6))


def test_digests_tell_where_one_list_ends() -> None:
    lists = [([1, 1], [[1], [1]]), ([1], [[1, 1], [1]]), ([1], [[1], [1, 1]]), ([1], [[1, 1, 1]]), ([1, 1, 1, 1], [[]])]
    digests = {hash_rows([{"prompt_ids": prompt, "answer_ids": answers}]) for prompt, answers in lists}
    assert len(digests) == len(lists)
