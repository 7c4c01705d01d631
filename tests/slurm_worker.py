"""Replaces a worker in a SLURM job: `slurm_worker.py RUN_DIR` behaves as RUN_DIR/behaviour says.

Like a worker, it reports its start through events.jsonl, treats SIGINT and SIGTERM as a stop request, and then ends
with 75 (`wait 130`: with 130). Each process adds a line to RUN_DIR/lives.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

run = Path(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))
behaviour, _, argument = (run / "behaviour").read_text().partition(" ")


def stop(number: int, frame: FrameType | None) -> None:
    """Behave like a worker after its checkpoint; processes end at different times."""
    time.sleep(1.5 * rank)
    (run / f"stopped.{rank}").write_text(signal.Signals(number).name)
    sys.exit(int(argument or 75))


def wait() -> None:
    """Train forever in the first process of a run; finish in later ones."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        time.sleep(600)


def meet() -> None:
    """All processes connect to rank 0, which writes their environments to met.json."""
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    count = int(os.environ["WORLD_SIZE"])
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_NODEID", "OMP_NUM_THREADS")
    mine = {name: os.environ.get(name) for name in names}
    if rank == 0:
        with socket.create_server(place) as server:
            guests = [server.accept()[0] for _ in range(count - 1)]
        all_of_them = [mine, *(json.loads(guest.makefile().readline()) for guest in guests)]
        (run / "met.json").write_text(json.dumps(all_of_them))
        return
    for _ in range(100):
        try:
            with socket.create_connection(place) as connection:
                connection.sendall(json.dumps(mine).encode() + b"\n")
            return
        except OSError:
            time.sleep(0.1)


def reduce() -> None:
    """All processes add up their ranks with torch and gloo."""
    import torch

    torch.distributed.init_process_group("gloo")
    total = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(total)
    (run / f"total.{rank}").write_text(str(total.item()))
    torch.distributed.destroy_process_group()


signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
if rank == 0:
    with (run / "lives").open("a") as lives:
        lives.write(f"{os.getpid()} {os.environ.get('SLURM_RESTART_COUNT', '0')}\n")
    with (run / "events.jsonl").open("a") as events:
        events.write('{"event": "stage", "name": "start", "detail": ""}\n')
print("the worker speaks", flush=True)
if behaviour == "exit":
    sys.exit(int(argument))
elif behaviour == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif behaviour == "ignore":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if argument == "both":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
else:
    {"wait": wait, "meet": meet, "reduce": reduce}[behaviour]()
