"""Checks once for each process whether the Hugging Face hub, or the mirror in HF_ENDPOINT, answers."""

from __future__ import annotations

import sys
import time
from functools import cache

_TIMEOUT_S = 5.0
_PAUSE_S = 2.0


def endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_reachable() -> bool:
    """Whether the hub answers, even with an error; also False if HF_HUB_OFFLINE is set."""
    from huggingface_hub import get_session

    for pause_s in (_PAUSE_S, 0.0):  # a second attempt, for a network that is just starting
        try:
            get_session().get(f"{endpoint()}/api/models", params={"limit": 1}, timeout=_TIMEOUT_S)
        except Exception:  # errors of its HTTP library, which differs between major versions
            time.sleep(pause_s)
        else:
            return True
    return False


@cache
def go_offline_if_unreachable() -> bool:
    """Switch this process to downloaded files if the hub does not answer. Returns whether it was switched.

    huggingface_hub 2.4 retries each file for half a minute before it reads its cache, which takes minutes on a node
    without a network. False if the user has set HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_reachable():
        return False
    # transformers and peft read huggingface_hub's setting; datasets copies it at import.
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return True


def is_offline() -> bool:
    """Whether the hub was needed so far and did not answer."""
    return go_offline_if_unreachable.cache_info().currsize > 0 and go_offline_if_unreachable()
