"""What each part of the GPU check is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device import Device
from results import Results


@dataclass(frozen=True)
class Context:
    """The device, how large to measure, where to record."""

    device: Device
    is_tiny: bool
    """Whether the check only tries itself out: on a CPU, in seconds."""
    results: Results
    scratch: Path
    """A folder for what is needed on the way; a part finds there what an earlier one has left."""

    def record(self, part: str, name: str, value: Any) -> None:
        """Keep a measurement at once."""
        self.results.record(part, name, value)
        print(f"{part} {name}: {value}", flush=True)
