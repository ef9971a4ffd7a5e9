"""Several processes that share the work of one command: `torchrun`, `accelerate launch`, or the same variables by hand.

They exchange words and never tensors, through the key-value store to which the launcher's variables lead: so it makes
no difference where they compute, and no process group stands in the way of what a model does by itself. Every wait
ends: when all are there, when one says that it failed, or when one gives no sign of life for too long.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from scr import ConfigError, SCRError

SILENCE = 45.0
"""Seconds without a heartbeat after which a process is given up: it was killed, or its machine is gone."""
STANDSTILL = 1_800.0
"""Seconds without a batch, a loaded model or a message after which one that still beats is given up: it hangs."""
_BEAT = 5.0  # seconds between two heartbeats
_JOINING = 300.0  # seconds to find the others
_FAREWELL = 120.0  # seconds that a process waits for others to end before it does
_SHORTEST, _LONGEST = 0.01, 0.25  # seconds between two looks into the store


class RanksError(SCRError, RuntimeError):
    """The processes of a command have lost each other."""


class FailedElsewhereError(SCRError, RuntimeError):
    """Another process of the command failed, and has said why."""


@dataclass(frozen=True)
class World:
    """This process's place among those of the command.

    Attributes:
        rank: its number; the first, 0, keeps the records and prints.
        size: number of processes.
        local_rank: its number on this machine.
        local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether it keeps the records and prints."""
        return self.rank == 0

    def __str__(self) -> str:
        """In words, for messages."""
        return f"process {self.rank} of {self.size}"


def find_world(expected: int | None = None, environment: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher's variables describe: WORLD_SIZE, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE.

    Args:
        expected: number of processes that there must be; None takes what is found.
        environment: the variables.

    Raises:
        ConfigError: for another number of processes than expected, or variables that do not fit together.
    """
    size = _number(environment, "WORLD_SIZE", 1, 1)
    if expected is not None and size != expected:
        raise ConfigError(
            f"another number of processes than expected: got {size}; expected {expected}. Check the launcher "
            "(`accelerate launch --cpu` starts one process whatever --num_processes says): "
            f"torchrun --nproc-per-node {expected} -m benchmarks.run ..."
        )
    if size == 1:
        return World()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"variables of the launcher are missing: got WORLD_SIZE={size} without {', '.join(missing)}; expected all. "
            "Start with torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    rank = _number(environment, "RANK", 0, 0)
    if rank >= size:
        raise ConfigError(f"RANK out of range: got {rank}; expected 0 to {size - 1}. Check the launcher.")
    local_size = _number(environment, "LOCAL_WORLD_SIZE", size, 1)
    return World(rank, size, _number(environment, "LOCAL_RANK", rank, 0), local_size)


def device_of(world: World, device: str, device_map: object = None) -> str:
    """The device of a process: "auto" is a GPU of its own, if there are GPUs; any other name stays what it is.

    Args:
        world: the process.
        device: as on the command line.
        device_map: the model's device map, None without one; the GPUs that it may use belong to one process.

    Raises:
        ConfigError: for more processes than GPUs, or a device map beside other processes.
    """
    if world.local_size == 1 or device != "auto":
        return device
    import torch

    if not torch.cuda.is_available():
        return device
    if device_map is not None:
        raise ConfigError(
            f"a device map with several processes: got {device_map!r} with {world.local_size} on this machine; "
            "expected one, as each would put its model on the same GPUs. Start without a launcher, or leave "
            "--device-map out."
        )
    count = torch.cuda.device_count()
    if world.local_rank >= count:
        raise ConfigError(
            f"more processes than GPUs: got {world.local_size} on a machine with {count}; expected at most {count}. "
            "Start fewer, or let them share one with --device cuda."
        )
    return f"cuda:{world.local_rank}"


class Ranks:
    """What the processes of a command tell each other. Of one alone, everything returns at once.

    Every process calls `meet` and `share` equally often and in the same order.

    Attributes:
        world: this process's place.

    Args:
        world: this process's place; more than one process must be `join`ed.
        store: the key-value store that they share.
        silence: see `SILENCE`.
        standstill: see `STANDSTILL`.
    """

    def __init__(
        self,
        world: World | None = None,
        store: Any = None,
        silence: float = SILENCE,
        standstill: float = STANDSTILL,
    ) -> None:
        self.world = world if world is not None else World()
        self._store, self._silence, self._standstill = store, silence, standstill
        self._lost: RanksError | None = None
        self._hearts: dict[int, _Sign] = {}
        self._left = threading.Event()
        if store is not None:
            # A daemon: a process that ends without a word stops beating.
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self._problem: str | None = None
        self._meetings = self._shared = 0

    @classmethod
    def join(cls, world: World, limit: float = _JOINING) -> Ranks:
        """Find the other processes.

        Args:
            world: this process's place.
            limit: seconds after which it is an error that they are not there.

        Raises:
            RanksError: if they cannot be reached.
        """
        if world.size == 1:
            return cls(world)
        from torch.distributed import rendezvous

        try:
            store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timedelta(seconds=limit)))
        except Exception as error:  # refused, unknown host, a port in use: the launcher's, whatever its type
            raise RanksError(
                f"{world} finds no other: got {_first_sentence(error)}; expected the store of the launcher. "
                "Check MASTER_ADDR and MASTER_PORT."
            ) from error
        return cls(world, store)

    @property
    def problem(self) -> str | None:
        """Why the first process that failed did; None as long as none has."""
        if self._problem is None and self._store is not None:
            with self._talking():
                if self._store.check(["failed"]):
                    self._problem = self._store.get("failed").decode()
        return self._problem

    def fail(self, problem: str) -> None:
        """Say that this process failed. The first that says so is heard."""
        if self._problem is None and self._store is None:
            self._problem = problem
        elif self._store is not None:
            with self._talking():
                self._store.compare_set("failed", "", problem)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Whatever is raised inside, this process failed, and the others hear why."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(RanksError):
                self.fail(f"{type(error).__name__}: {error} ({self.world})")
            raise

    def step(self) -> None:
        """Say that this process goes on.

        Raises:
            FailedElsewhereError: if another one failed.
        """
        if self._store is None:
            return
        with self._talking():
            self._store.add(f"step/{self.world.rank}", 1)
        self._stop_if_failed()

    def meet(self) -> None:
        """Wait until all processes are here, or have left.

        Raises:
            RanksError: if one gives no sign of life for too long.
        """
        if self._store is None:
            return
        self._meetings += 1
        here = f"meet/{self._meetings}"
        with self._talking():
            self._store.set(f"{here}/{self.world.rank}", "")
        waiting = set(range(self.world.size))

        def arrived() -> bool:
            for rank in list(waiting):
                if self._store.check([f"{here}/{rank}"]) or self._store.check([f"left/{rank}"]):
                    waiting.discard(rank)
            return not waiting

        self._wait(arrived, waiting)

    def share(self, value: Any = None) -> Any:
        """The first process's value, a JSON value, for all.

        Raises:
            FailedElsewhereError: if another process failed.
            RanksError: if the first one gives no sign of life for too long.
        """
        if self._store is None:
            return value
        self._shared += 1
        name = f"share/{self._shared}"
        if self.world.first:
            self.step()
            with self._talking():
                self._store.set(name, json.dumps(value))
            return value

        def there() -> bool:
            if self._store.check([name]):
                return True
            self._stop_if_failed()
            return False

        self._wait(there, {0})
        with self._talking():
            return json.loads(self._store.get(name))

    def _beat(self) -> None:
        """Say again and again that this process lives, whatever its work is doing meanwhile."""
        while not self._left.wait(min(_BEAT, self._silence / 4)):
            try:
                with self._talking():
                    self._store.add(f"alive/{self.world.rank}", 1)
            except RanksError:
                return  # the work will meet it too, and say so

    def leave(self) -> None:
        """Say that nothing more will come, and wait a while for the others, of whom one may hold the store.

        Launchers stop all processes as soon as one ends with an error; so those that wait for the first one to write
        and print why do so here.
        """
        if self._store is None:
            return
        others = set(range(self.world.size)) if self.world.first else {0}

        def gone() -> bool:
            return all(self._store.check([f"left/{rank}"]) for rank in others)

        # Whoever held the store may be gone already.
        with contextlib.suppress(RanksError):
            with self._talking():
                self._store.set(f"left/{self.world.rank}", "")
            self._wait(gone, others, _FAREWELL)
        self._left.set()

    def _stop_if_failed(self) -> None:
        problem = self.problem
        if problem is not None:
            raise FailedElsewhereError(
                f"another process failed: got {problem}; expected all to go on. The same command goes on from here."
            )

    def _wait(self, done: Callable[[], bool], waiting: set[int], limit: float | None = None) -> None:
        """Look until `done()`.

        Args:
            done: looks into the store.
            waiting: the processes that it waits for; `done` may take out those that it saw.
            limit: seconds to wait at most; None waits as long as they give signs of life.
        """
        pause, started = _SHORTEST, time.monotonic()
        # Steps before this wait are counted as heard when it began, since who waits makes none; hearts always beat.
        signs = {
            rank: (
                self._hearts.setdefault(rank, _Sign("alive", self._silence, started)),
                _Sign("step", self._standstill, started),
            )
            for rank in waiting
        }
        looked = -math.inf
        while True:
            with self._talking():
                if done():
                    return
                now = time.monotonic()
                if now - looked >= min(1.0, self._silence / 4):
                    looked = now
                    for rank in waiting:
                        for sign in signs[rank]:
                            sign.look(self._store.add(f"{sign.name}/{rank}", 0), now)
            silent = {
                rank: sign for rank in sorted(waiting) for sign in signs[rank] if now - sign.heard > sign.patience
            }
            if silent or (limit is not None and now - started > limit):
                patience = limit or max(sign.patience for sign in silent.values())
                raise RanksError(
                    f"no sign of life from process {', '.join(map(str, silent or sorted(waiting)))} of "
                    f"{self.world.size}: got none for {patience:.0f} s; expected batch after batch. "
                    "Look for its error; the same command goes on from here."
                )
            time.sleep(pause)
            pause = min(_LONGEST, 2 * pause)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        if self._lost is not None:
            raise self._lost  # torch would print its own stack once more
        try:
            yield
        except SCRError:
            raise
        except RuntimeError as error:  # torch.distributed's errors are of this type
            self._lost = RanksError(
                f"{self.world} lost the others: got {_first_sentence(error)}; expected the store of the launcher. Look "
                "for the error of the process that ended; the same command goes on from here."
            )
            raise self._lost from error


@dataclass
class _Sign:
    """A counter of another process, which grows as long as it gives this sign of life."""

    name: str
    patience: float
    heard: float
    last: int = 0

    def look(self, count: int, now: float) -> None:
        if count != self.last:
            self.last, self.heard = count, now


def _first_sentence(error: Exception) -> str:
    """What an error of torch's says, without the C++ stack below it."""
    return " ".join(str(error).partition("Exception raised from")[0].split())[:200].rstrip(".") or type(error).__name__


def _number(environment: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name} out of range: got {text!r}; expected {least} or more. Check the launcher.")
    return int(text)
