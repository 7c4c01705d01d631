"""Checks the header of a safetensors file (https://github.com/huggingface/safetensors#format)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

_MAX_HEADER_BYTES = 100_000_000
"""As the library safetensors limits it."""


def why_not_safetensors(content: Iterator[bytes], num_bytes: int) -> str | None:
    """Why a file is no safetensors file; None if it is one."""
    head = b""
    header_bytes = None
    for chunk in content:
        head += chunk
        if header_bytes is None and len(head) >= 8:
            header_bytes = struct.unpack("<Q", head[:8])[0]
            if header_bytes > min(_MAX_HEADER_BYTES, num_bytes - 8):
                return f"its header should have {header_bytes:,} bytes, and the file has {num_bytes:,}"
        if header_bytes is not None and len(head) >= 8 + header_bytes:
            break
    if header_bytes is None:
        return "it is too short"
    try:
        header = json.loads(head[8 : 8 + header_bytes])
        return _why_not_filled(header, num_bytes - 8 - header_bytes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"its header cannot be read: {type(error).__name__}"


def _why_not_filled(header: dict[str, Any], num_bytes: int) -> str | None:
    """The tensors must fill the file without gaps."""
    spans = sorted(tuple(tensor["data_offsets"]) for name, tensor in header.items() if name != "__metadata__")
    at = 0
    for start, end in spans:
        if start != at or end < start:
            return "its tensors overlap or leave gaps"
        at = end
    return None if at == num_bytes else f"its tensors have {at:,} bytes, and {num_bytes:,} are there"
