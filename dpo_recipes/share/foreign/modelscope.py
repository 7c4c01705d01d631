"""ModelScope's ids of models and datasets, with those of the hub."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from dpo_recipes.share.foreign.draft import Draft
from dpo_recipes.share.foreign.machine import known_files

KNOWN_DATASETS: dict[str, tuple[str, str, dict[str, str]]] = {
    "hjh0119/shareAI-Llama3-DPO-zh-en-emoji": (
        "shareAI/DPO-zh-en-emoji",
        "ms_swift_query",
        {"query": "question", "response": "answer_zh", "rejected_response": "answer_en"},
    ),
    "AI-ModelScope/zhihu_rlhf_3k": ("liyucheng/zhihu_rlhf_3k", "preference", {}),
    "AI-ModelScope/orpo-dpo-mix-40k": ("mlabonne/orpo-dpo-mix-40k", "chat_template.argilla_chat", {}),
    "AI-ModelScope/hh-rlhf": ("Anthropic/hh-rlhf", "hh_rlhf", {}),
    "swift/orca_dpo_pairs": ("Intel/orca_dpo_pairs", "preference", {"prompt": "question"}),
    "AI-ModelScope/stack-exchange-paired": (
        "lvwerra/stack-exchange-paired",
        "preference",
        {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
    ),
    "HumanLLMs/Human-Like-DPO-Dataset": ("HumanLLMs/Human-Like-DPO-Dataset", "preference", {}),
    "AI-ModelScope/ultrafeedback-binarized-preferences-cleaned-kto": (
        "argilla/ultrafeedback-binarized-preferences-cleaned-kto",
        "unpaired",
        {},
    ),
}
"""Preference data that ms-swift 4.6 registers with columns of their own: the hub's id, the format and its columns."""


@lru_cache(maxsize=1)
def _hub_ids() -> dict[str, str]:
    path = resources.files("dpo_recipes.share.foreign").joinpath("modelscope_ids.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ") for line in lines if line and not line.startswith("#"))


def hub_id(given: str, draft: Draft) -> tuple[str, bool]:
    """The hub's id of a model or dataset on ModelScope, and whether that is known. A local path is unchanged."""
    if given.startswith(("/", ".", "~")) or known_files(draft, given) is not None:
        return given, True
    known = _hub_ids().get(given)
    if known is not None:
        return known, True
    owner = given.partition("/")[0]
    is_doubtful = owner in ("AI-ModelScope", "LLM-Research", "swift", "iic", "modelscope", "damo", "hjh0119")
    return given, not is_doubtful
