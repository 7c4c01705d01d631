"""The Hugging Face hub, or the mirror in HF_ENDPOINT: whether it answers, asked once a process."""

from __future__ import annotations

import sys
import time
from functools import cache

_TIMEOUT_S = 5.0
_PAUSE_S = 2.0


def endpoint() -> str:
    """Its address."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_reachable() -> bool:
    """Whether it answers, be it with an error; false too where HF_HUB_OFFLINE is set."""
    from huggingface_hub import get_session

    for pause_s in (_PAUSE_S, 0.0):  # a network that is just coming up gets a second chance
        try:
            get_session().get(f"{endpoint()}/api/models", params={"limit": 1}, timeout=_TIMEOUT_S)
        except Exception:  # those of its HTTP library, which is another one in each major version
            time.sleep(pause_s)
        else:
            return True
    return False


@cache
def is_left_alone() -> bool:
    """Whether this process asks only for what was downloaded before, as the hub does not answer.

    huggingface_hub 2.4 asks for each file again and again for half a minute before it looks into its cache: on a node
    without a network that was minutes. A person who has set HF_HUB_OFFLINE knows, and it is false.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_reachable():
        return False
    constants.HF_HUB_OFFLINE = True  # transformers and peft ask huggingface_hub; datasets copies it when imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return True


def was_left_alone() -> bool:
    """Whether something was wanted of it so far, and it did not answer."""
    return is_left_alone.cache_info().currsize > 0 and is_left_alone()
