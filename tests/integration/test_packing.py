"""Packed rows: lengths, layout, the way back, and attention against a dense mask over the whole row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sharing import make_model
from torch.nn import functional

from dpo_recipes.engine import varlen
from dpo_recipes.engine.attention import UnsupportedAttentionError, attend_packed, span_mask
from dpo_recipes.engine.packing import (
    GroupLengths,
    Packing,
    measure_groups,
    own_position_ids,
    pack,
    split_by_padded_tokens,
    split_by_tokens,
)
from dpo_recipes.engine.prefix_sharing import share_prefixes
from dpo_recipes.engine.varlen import varlen_layout

# Rows of three pairs: a shared prompt of 3 with answers that begin alike, no shared prefix, and a row that is the
# beginning of the other.
CHOSEN = [[5, 6, 7, 1, 1, 2], [4, 4], [9, 8, 7]]
REJECTED = [[5, 6, 7, 1, 3], [3, 4, 4, 4], [9, 8, 7, 1, 2]]


# A third answer to each prompt: its group then shares 3, 0 and 0 tokens.
THIRD = [[5, 6, 7, 2], [4, 4, 4], []]


def _padded(rows: list[list[int]], before: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right; with `before`, each row has one more token of padding before it, up to that many."""
    starts = [number % (before + 1) for number in range(len(rows))]
    width = max(start + len(row) for start, row in zip(starts, rows, strict=True))
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for number, (start, row) in enumerate(zip(starts, rows, strict=True)):
        ids[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = 1
    return ids, mask


def _measured(*answers: list[list[int]], before: int = 0) -> GroupLengths:
    answers = answers or (CHOSEN, REJECTED)
    lengths = measure_groups(*_padded([row for rows in answers for row in rows], before), len(answers))
    assert lengths is not None
    return lengths


def _packing(*answers: list[list[int]], before: int = 0) -> Packing:
    return pack(_measured(*answers, before=before), range(3), torch.device("cpu"))


def test_lengths_are_those_of_the_rows_and_of_what_they_begin_with() -> None:
    lengths = _measured()
    assert lengths == GroupLengths(prefix=(4, 0, 3), lengths=((6, 2, 3), (5, 4, 5)), width=6)
    assert lengths.distinct == (7, 6, 5)
    assert lengths.num_padded == 36


def test_padding_is_never_shared() -> None:
    """Both rows end with the same padding token; only real tokens count."""
    assert _measured([[1, 2]], [[1, 2]]) == GroupLengths((2,), ((2,), (2,)), 2)
    ids, mask = _padded([[1, 2], [1, 0], [5, 6, 7], [5, 6]])
    assert measure_groups(ids, mask, 2) == GroupLengths((0, 0), ((2, 2), (3, 2)), 3)


def test_a_prefix_is_what_all_answers_begin_with() -> None:
    """Groups of 6 + 5 + 4, 2 + 4 + 3 and 3 + 5 + 0 tokens; the first shares 3 of them twice."""
    lengths = _measured(CHOSEN, REJECTED, THIRD)
    assert lengths == GroupLengths((3, 0, 0), ((6, 2, 3), (5, 4, 5), (4, 3, 0)), 6)
    assert lengths.distinct == (9, 9, 8)
    assert lengths.num_padded == 54


def test_a_single_answer_is_a_prefix_of_itself() -> None:
    lengths = _measured(CHOSEN)
    assert lengths == GroupLengths((6, 2, 3), ((6, 2, 3),), 6)
    assert lengths.distinct == (6, 2, 3)


def test_padding_before_a_row_is_measured_and_not_shared() -> None:
    """Rows of a pair start at different positions; an empty row starts at none."""
    ids = torch.tensor([[0, 0, 7, 8, 1], [0, 0, 0, 0, 0], [0, 7, 8, 2, 0], [0, 0, 0, 0, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]])
    lengths = measure_groups(ids, mask, 2)
    assert lengths is not None
    assert lengths == GroupLengths((2, 0), ((3, 0), (3, 1)), 5, ((2, 0), (1, 4)))
    assert [lengths.columns(range(*group)) for group in ((0, 1), (1, 2), (0, 2))] == [
        range(1, 5),
        range(4, 5),
        range(1, 5),
    ]
    assert lengths.with_padding_before() == GroupLengths((0, 0), ((5, 0), (4, 5)), 5)
    assert own_position_ids(mask).tolist()[0] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("mask", [[[1, 0, 1], [1, 1, 1]], [[[1, 1, 1]], [[1, 1, 1]]]], ids=["hole", "of other shape"])
def test_rows_whose_tokens_are_not_one_run_are_left_alone(mask: list[Any]) -> None:
    assert measure_groups(torch.ones(2, 3, dtype=torch.long), torch.tensor(mask), 2) is None


@pytest.mark.parametrize(("rows", "answers"), [(3, 2), (4, 3), (2, 4), (0, 2)])
def test_rows_that_do_not_make_whole_groups_are_left_alone(rows: int, answers: int) -> None:
    assert measure_groups(torch.ones(rows, 4, dtype=torch.long), None, answers) is None


def test_each_distinct_token_stands_once_with_its_own_position() -> None:
    ids, _ = _padded(CHOSEN + REJECTED)
    packing = _packing()
    assert packing.gather(ids).tolist() == [[5, 6, 7, 1, 1, 2, 3, 4, 4, 3, 4, 4, 4, 9, 8, 7, 1, 2]]
    assert packing.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 4, 0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4]]


def test_the_tails_of_a_group_follow_one_another() -> None:
    ids, _ = _padded(CHOSEN + REJECTED + THIRD)
    packing = _packing(CHOSEN, REJECTED, THIRD)
    assert packing.gather(ids)[0, :9].tolist() == [5, 6, 7, 1, 1, 2, 1, 3, 2]
    assert packing.position_ids[0, :9].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 3]
    assert [group.tails for group in packing.groups] == [(3, 2, 1), (2, 4, 3), (3, 5, 0)]


ANSWERS = {
    "1": (CHOSEN,),
    "2": (CHOSEN, REJECTED),
    "3": (CHOSEN, REJECTED, THIRD),
    "4": (THIRD, CHOSEN, REJECTED, CHOSEN),
}


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("answers", ANSWERS)
def test_what_is_scattered_back_is_what_was_gathered(answers: str, before: int) -> None:
    rows = ANSWERS[answers]
    ids, mask = _padded([row for each in rows for row in each], before)
    packing = _packing(*rows, before=before)
    back = packing.scatter(packing.gather(ids)[..., None].float())[..., 0].long()
    assert back.shape == ids.shape
    assert torch.equal(back * mask, ids)


def test_a_shared_position_gets_the_gradients_of_both_rows() -> None:
    packing = _packing()
    hidden = torch.zeros(1, packing.num_tokens, 1, requires_grad=True)
    _, mask = _padded(CHOSEN + REJECTED)
    (packing.scatter(hidden)[..., 0] * mask).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[0, :, 0].tolist() == [2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("budget", "groups"),
    [(None, [(0, 4)]), (100, [(0, 4)]), (12, [(0, 2), (2, 4)]), (5, [(0, 1), (1, 2), (2, 3), (3, 4)])],
)
def test_groups_are_divided_by_a_token_budget(budget: int | None, groups: list[tuple[int, int]]) -> None:
    assert split_by_tokens((6, 6, 7, 5), budget) == [range(*group) for group in groups]


def _dense_mask(packing: Packing, window: int | None, answers: tuple[list[list[int]], ...]) -> torch.Tensor:
    """[T, T], from the definition: a token sees tokens of its own row at its own and earlier positions."""
    lengths = [len(row) for rows in answers for row in rows]
    rows = [set(packing.target[row, :length].tolist()) for row, length in enumerate(lengths)]
    position = packing.position_ids[0].tolist()
    visible = torch.zeros(packing.num_tokens, packing.num_tokens, dtype=torch.bool)
    for row in rows:
        for query in row:
            for key in row:
                distance = position[query] - position[key]
                visible[query, key] |= 0 <= distance < (window or 1000)
    return visible


def test_padded_pairs_are_divided_by_the_positions_of_their_longest_row() -> None:
    """Rows of 6, 4 and 5: two pairs of which the longest row is 6 have 24 positions, the last two 20."""
    lengths = _measured()
    assert split_by_padded_tokens(lengths, None) == [range(3)]
    assert split_by_padded_tokens(lengths, 36) == [range(3)]
    assert split_by_padded_tokens(lengths, 35) == [range(2), range(2, 3)]
    assert split_by_padded_tokens(lengths, 23) == [range(1), range(1, 3)]
    assert split_by_padded_tokens(lengths, 1) == [range(1), range(1, 2), range(2, 3)]


def _heads(packing: Packing) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(1, heads, packing.num_tokens, 8) for heads in (4, 2, 2)]
    query, key, value = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return query, key, value


def _attend_densely(
    packing: Packing, window: int | None, answers: tuple[list[list[int]], ...] = (CHOSEN, REJECTED)
) -> list[torch.Tensor]:
    query, key, value = _heads(packing)
    mask = _dense_mask(packing, window, answers)
    output = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True, scale=0.3)
    output.transpose(1, 2).pow(2).sum().backward()
    return [output.transpose(1, 2), *_gradients(query, key, value)]


def _gradients(*tensors: torch.Tensor) -> list[torch.Tensor]:
    gradients = [tensor.grad for tensor in tensors]
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("window", [None, 3, 4, 100])
@pytest.mark.parametrize("answers", ANSWERS)
def test_attention_by_span_is_attention_with_a_dense_mask(answers: str, window: int | None) -> None:
    packing = _packing(*ANSWERS[answers])
    query, key, value = _heads(packing)
    output = attend_packed(query, key, value, packing, scaling=0.3, sliding_window=window)
    output.pow(2).sum().backward()
    ours, dense = [output, *_gradients(query, key, value)], _attend_densely(packing, window, ANSWERS[answers])
    assert len(ours) == len(dense) == 4
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs)


def _varlen_reference(  # the arguments of torch.nn.attention.varlen.varlen_attn in torch 2.13
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    max_queries: int,
    max_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What flash attention 2 documents: each sequence alone, causal within (left, 0), aligned at the bottom right."""
    assert query_starts.dtype == key_starts.dtype == torch.int32
    outputs = []
    for index in range(len(query_starts) - 1):
        queries = slice(int(query_starts[index]), int(query_starts[index + 1]))
        keys = slice(int(key_starts[index]), int(key_starts[index + 1]))
        part = [tensor[None].transpose(1, 2) for tensor in (query[queries], key[keys], value[keys])]
        rows, columns = part[0].shape[2], part[1].shape[2]
        assert rows <= max_queries
        assert columns <= max_keys
        distance = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)[None]
        visible = (distance >= 0) & ((distance <= window_size[0]) if window_size[0] >= 0 else True)
        output = functional.scaled_dot_product_attention(*part, attn_mask=visible, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("answers", ANSWERS)
def test_the_layout_for_cuda_kernels_is_the_same_attention(
    answers: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs a GPU; what it is handed is checked with its documented meaning."""
    from torch.nn.attention import varlen as upstream

    monkeypatch.setattr(upstream, "varlen_attn", _varlen_reference)
    monkeypatch.setattr(varlen, "has_kernel", lambda query, value: True)
    packing = _packing(*ANSWERS[answers])
    query, key, value = _heads(packing)
    output = attend_packed(query, key, value, packing, scaling=0.3, sliding_window=window)
    output.pow(2).sum().backward()
    dense = _attend_densely(packing, window, ANSWERS[answers])
    for mine, theirs in zip([output, *_gradients(query, key, value)], dense, strict=True):
        torch.testing.assert_close(mine, theirs)


def _refuses(query: torch.Tensor, key: torch.Tensor, *more: Any, **others: Any) -> torch.Tensor:
    """A kernel that wants as many heads of keys as of queries."""
    if query.shape[1] != key.shape[1]:
        raise RuntimeError("Number of heads in key and query must be equal")
    return _varlen_reference(query, key, *more, **others)


def _shares(query: torch.Tensor, key: torch.Tensor, *more: Any, **others: Any) -> torch.Tensor:
    """A kernel that shares heads of keys among those of queries without an argument for it."""
    return _varlen_reference(query, key, *more, **others, enable_gqa=query.shape[1] != key.shape[1])


def _is_wrong(query: torch.Tensor, key: torch.Tensor, *more: Any, **others: Any) -> torch.Tensor:
    """A kernel that takes fewer heads of keys and computes something else."""
    return _shares(query, key, *more, **others) * (2 if query.shape[1] != key.shape[1] else 1)


@pytest.mark.parametrize(("kernel", "is_repeated"), [(_refuses, True), (_shares, False), (_is_wrong, True)])
def test_a_kernel_without_an_argument_for_fewer_key_heads_is_tried(
    kernel: Any, is_repeated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch 2.11, which takes no `enable_gqa`. Tried within an activation checkpoint, which counts what is saved."""
    from torch.nn.attention import varlen as upstream

    heads: set[int] = set()

    def spy(query: torch.Tensor, key: torch.Tensor, *more: Any, **others: Any) -> torch.Tensor:
        if query.shape[0] == packing.num_tokens:
            heads.add(key.shape[1])
        return kernel(query, key, *more, **others)

    monkeypatch.setattr(upstream, "varlen_attn", spy)
    monkeypatch.setattr(varlen, "has_kernel", lambda query, value: True)
    packing = _packing()
    query, key, value = _heads(packing)
    assert (query.shape[1], key.shape[1]) == (4, 2)
    output = torch.utils.checkpoint.checkpoint(
        lambda *tensors: attend_packed(*tensors, packing, scaling=0.3), query, key, value, use_reentrant=False
    )
    output.pow(2).sum().backward()
    for mine, theirs in zip([output, *_gradients(query, key, value)], _attend_densely(packing, None), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert heads == {4 if is_repeated else 2}


def test_under_autocast_the_kernel_gets_16_bits_of_32_bit_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary embeddings make queries and keys 32 bits wide, and values stay as autocast has computed them."""
    from torch.nn.attention import varlen as upstream

    handed: list[set[torch.dtype]] = []

    def kernel(*tensors: Any, enable_gqa: bool = False, **more: Any) -> torch.Tensor:
        handed.append({tensor.dtype for tensor in tensors[:3]})
        return _varlen_reference(*tensors, enable_gqa=enable_gqa, **more)

    monkeypatch.setattr(upstream, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "has_kernel", lambda query, value: query.dtype.itemsize == 2)
    model = make_model()
    sharing = share_prefixes(model, "on")
    ids, mask = _padded(CHOSEN + REJECTED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shared = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        plain = sharing.plain(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    # Two layers, in the trial and in the batch.
    assert handed == [{torch.bfloat16}] * 4
    torch.testing.assert_close(shared[mask.bool()], plain[mask.bool()], rtol=0.05, atol=0.05)


def test_the_cuda_layout_copies_each_prefix_before_its_rejected_tail() -> None:
    layout = varlen_layout(_packing(), torch.device("cpu"))
    assert layout.query_starts.tolist() == [0, 6, 7, 9, 13, 16, 18]
    assert layout.key_starts.tolist() == [0, 6, 11, 13, 17, 20, 25]
    assert layout.key_index.tolist()[6:11] == [0, 1, 2, 3, 6]
    assert (layout.max_queries, layout.max_keys) == (6, 6)


def test_masks_are_made_only_where_causal_attention_does_not_do() -> None:
    cpu = torch.device("cpu")
    assert span_mask(5, 5, None, cpu) is None
    assert span_mask(5, 5, 5, cpu) is None
    assert span_mask(1, 9, None, cpu) is None
    tail = span_mask(2, 4, None, cpu)
    windowed = span_mask(2, 4, 2, cpu)
    assert tail is not None
    assert windowed is not None
    assert tail.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert windowed.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    "asked",
    [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}, {"is_causal": False}],
    ids=["softcap", "sinks", "bidirected"],
)
def test_scores_that_cannot_be_computed_are_refused(asked: dict[str, object]) -> None:
    packing = _packing()
    with pytest.raises(UnsupportedAttentionError):
        attend_packed(*_heads(packing), packing, **asked)  # type: ignore[arg-type]
