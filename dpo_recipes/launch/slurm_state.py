"""Parses the output of `scontrol --oneliner show job`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_WAITS = {*_QUEUED, "SUSPENDED"}
# The most common reasons; the names of the others explain themselves. `man squeue`, JOB REASON CODES.
_REASONS = {
    "AssocGrpCpuLimit": "the account's jobs use all the cores it may have",
    "AssocGrpGRES": "the account's jobs use all the GPUs it may have",
    "BeginTime": "it may not start yet; a requeued job waits about two minutes",
    "Dependency": "another job must end first",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "it is held; `scontrol release` releases it",
    "PartitionTimeLimit": "it requests more time than the partition allows",
    "Priority": "jobs of a higher priority come first",
    "QOSMaxGRESPerUser": "your other jobs use all the GPUs that you may have",
    "QOSMaxJobsPerUserLimit": "you have as many jobs running as you may",
    "ReqNodeNotAvail": "the nodes it may run on are down, drained or reserved",
    "Resources": "no node with the requested resources is free",
}


@dataclass(frozen=True)
class JobView:
    """A job as SLURM sees it."""

    state: str
    reason: str = "None"
    exit_code: int = 0
    signal: int = 0
    restarts: int = 0
    nodes: str = ""
    starts: str | None = None
    """When it is expected to start, if SLURM knows."""

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in _ENDED

    @property
    def waits(self) -> bool:
        """Whether it is waiting in the queue."""
        return self.state in _WAITS

    @property
    def is_ending(self) -> bool:
        """Whether it has ended, or its processes are being cleaned up."""
        return self.has_ended or self.state == "COMPLETING"

    @property
    def is_queued(self) -> bool:
        """Whether it is not on a node, not even suspended."""
        return self.state in _QUEUED

    @property
    def runs(self) -> bool:
        """Whether its script is running."""
        return self.state == "RUNNING"


def parse_job(text: str) -> JobView:
    """A job from the line that scontrol prints for it."""
    return _view(_fields(text.strip().splitlines()[0]))


def parse_array(text: str) -> dict[int, JobView]:
    """The tasks of an array by their number, from the lines that scontrol prints: one for each task that has started,
    and one for all that wait (`ArrayTaskId=3-4,7%2`)."""
    views: dict[int, JobView] = {}
    for line in text.strip().splitlines():
        fields = _fields(line)
        for part in fields.get("ArrayTaskId", "").partition("%")[0].split(","):
            first, _, last = part.partition("-")
            if first.isdecimal():
                views |= dict.fromkeys(range(int(first), int(last or first) + 1), _view(fields))
    return views


def _fields(line: str) -> dict[str, str]:
    # If a key occurs twice, the first one counts: free text such as the command and a comment comes later.
    fields: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S*)", line):
        fields.setdefault(key, value)
    return fields


def _view(fields: dict[str, str]) -> JobView:
    code, _, number = fields.get("ExitCode", "0:0").partition(":")
    started = fields.get("StartTime", "Unknown")
    return JobView(
        state=fields["JobState"],
        reason=fields.get("Reason", "None"),
        exit_code=int(code),
        signal=int(number or 0),
        restarts=int(fields.get("Restarts", "0")),
        nodes=fields.get("NodeList", ""),
        starts=None if started in ("Unknown", "N/A") else started,
    )


def describe_wait(view: JobView) -> str:
    """Why a job waits, as a message."""
    key = view.reason.split(",")[0]
    words = _REASONS.get(key)
    reason = f"{words} ({view.reason})" if words else view.reason
    when = f", expected to start {view.starts.replace('T', ' ')}" if view.starts else ""
    return f"waiting: {reason}{when}" if view.reason != "None" else "waiting in the queue"
