"""Starts a real SLURM on this machine: munged, slurmctld and slurmd in a temporary folder, on loopback and free
ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
INSTALL = "apt-get install slurm-wlm munge"

# Requeued jobs wait until their credential has expired: seconds instead of two minutes. Control groups are
# not used, because a container has none; linuxproc follows a process's descendants also into other sessions.
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
KillWait=5
{nodes}
PartitionName=work Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 MaxTime=1-0 DefMemPerNode=1000 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=1-0 DefMemPerNode=1000 State=UP
"""


def missing_programs() -> list[str]:
    """The programs that this machine lacks; the daemons are in sbin, which may not be on PATH."""
    return [name for name in PROGRAMS if find_program(name) is None]


def find_program(name: str) -> str | None:
    """The path of a program."""
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


class SlurmCluster:
    """The daemons, and the environment with which SLURM's commands reach them."""

    # Processes rendezvous on the first node by its host name; the name of the second node need not resolve.
    nodes = (socket.gethostname(), "zz-second")

    def __init__(self) -> None:
        # Not pytest's folder: munged requires one that all users can enter, and socket paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons and wait until the nodes are idle."""
        for name in ("state", *(f"spool.{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        self._write_configuration()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        places = [f"--{kind}={self.folder}/munge.{kind.split('-')[0]}" for kind in ("socket", "pid-file", "log-file")]
        seed = f"--seed-file={self.folder}/munge.seed"
        self._spawn("munged", "--foreground", "--force", f"--key-file={key}", seed, *places)
        wait_until((self.folder / "munge.socket").exists, 20, "munged did not start")
        self._spawn("slurmctld", "-D", "-i", "-f", self.environment["SLURM_CONF"])
        for node in self.nodes:
            self._spawn("slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"])
        wait_until(self.is_idle, 25, self.logs)

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        subprocess.run(["scancel", "--me"], env=self.environment, capture_output=True)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.call("squeue", "-h"), 15, "jobs do not end")
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_idle(self) -> bool:
        """Whether every node is idle."""
        states = self.call("sinfo", "--noheader", "--partition=work", "--format=%D %t")
        return states.strip() == f"{len(self.nodes)} idle"

    def call(self, *command: str) -> str:
        """The output of one of SLURM's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{log}\n{log.read_text(errors='replace')[-1500:]}" for log in self.folder.glob("*.log"))

    def _spawn(self, name: str, *arguments: str) -> None:
        program = find_program(name)
        assert program is not None
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons.append(
                subprocess.Popen(
                    [program, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
            )

    def _write_configuration(self) -> None:
        import getpass

        nodes = "\n".join(
            f"NodeName={node} NodeAddr=127.0.0.1 Port={free_port()} CPUs=4 RealMemory=8000 State=UNKNOWN"
            for node in self.nodes
        )
        text = _CONFIGURATION.format(
            host=socket.gethostname(),
            user=getpass.getuser(),
            folder=self.folder,
            nodes=nodes,
            controller_port=free_port(),
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Callable[[], object], timeout_s: float, message: str | Callable[[], str]) -> None:
    """Wait until a condition is true; fails with the message after a timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, message() if callable(message) else message
        time.sleep(0.1)


@contextlib.contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    """A cluster that is stopped at the end."""
    cluster = SlurmCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
