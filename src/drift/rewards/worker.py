"""Rewards in a process of their own: own threads and memory, and a time limit on every answer.

Where a reward runs is not what it is. So this is a setting (`reward_worker`) and no part of a
reward's name: evaluations made in either way compare. Images travel as float32 through a pipe, not
through shared memory, of which containers have little; scores come back as they were, bit for bit,
given as many threads.

The worker leads a process group, which is killed as a whole: when an answer takes too long, when
the rewards here are no longer used, and at exit. If this process is killed, the worker notices.
"""

import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from drift.errors import UserError
from drift.rewards import NO_FIELDS, load_rewards
from drift.rewards.checks import check_scores
from drift.types import Fields, Reward

SAFE_PATH = "PYTHONSAFEPATH"


def _attempt(work: Callable[[], Any]) -> tuple[bool, Any]:
    """(True, result), or (False, (one line on what went wrong, its traceback))."""
    try:
        return True, work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process should hear of it
        told = f"reward: {type(error).__name__}: {error}".splitlines()[0]
        told = str(error) if isinstance(error, UserError) else told
        return False, (told, "".join(traceback.format_exception(error)))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os.killpg(0, signal.SIGKILL)


def _serve(pipe, names: list[str], device: str, threads: int, fields: Fields) -> None:
    """The worker: load, say which rewards are per group, then score until nobody asks."""
    os.environ.pop(SAFE_PATH, None)  # what a reward starts is its own affair
    os.setsid()  # a group of its own; Ctrl-C in the terminal is the other process's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaks
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    fine, rewards = _attempt(lambda: load_rewards(names, device, fields))
    if not fine:
        return pipe.send((False, rewards))
    pipe.send((True, {name: getattr(rewards[name], "per_group", False) for name in names}))
    with suppress(EOFError):
        while True:
            name, shape, prompts = pipe.recv()
            images = torch.empty(shape)
            for pixels in images.flatten(1).numpy():
                pipe.recv_bytes_into(pixels)
            pipe.send(_attempt(partial(_score, rewards[name], images, prompts)))


def _score(reward: Reward, images: Float[Tensor, "N 3 H W"], prompts: list[str]):
    return check_scores(reward(images, prompts), prompts).cpu().numpy()


@contextmanager
def _safe_path() -> Iterator[None]:
    """Python that starts meanwhile does not look for its libraries in the current folder."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(SAFE_PATH)
        if before is not None:
            os.environ[SAFE_PATH] = before


def _kill(process) -> None:
    """The worker and whatever it started."""
    with suppress(ProcessLookupError, PermissionError):  # not yet, or no longer, a group
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


class Worker:
    """The other end: one process, one question at a time."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        device: str,
        threads: int,
        timeout: float,
        loading: float,
        fields: Fields,
    ) -> None:
        context = get_context("spawn")
        self.names, self.timeout, self.late = list(names), timeout, False
        self.pipe, theirs = context.Pipe()
        threads = threads or torch.get_num_threads()
        arguments = (theirs, self.names, device, threads, dict(fields))
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        with _safe_path():
            self.process.start()
        theirs.close()  # so that the pipe ends with the worker
        self.end = weakref.finalize(self, _kill, self.process)
        self.per_group: dict[str, bool] = self._answer(None, loading)

    def ask(self, name: str, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]):
        """Scores as a tensor; the images follow the question one by one, as plain bytes."""
        pixels = images.to("cpu", torch.float32).contiguous()
        question = (name, tuple(pixels.shape), list(prompts))
        return torch.from_numpy(self._answer(question, self.timeout, pixels.numpy()))

    def _answer(self, question: Any, seconds: float, pixels: Iterable = ()) -> Any:
        """The worker's answer. Killing it at the limit ends a blocked send or receive, too."""
        limit = threading.Timer(seconds, self._expire)
        limit.daemon = True
        limit.start()
        answered = False
        try:
            if question is not None:
                self.pipe.send(question)
            for image in pixels:
                self.pipe.send_bytes(image)
            fine, value = self.pipe.recv()
            answered = True
        except (EOFError, OSError):
            raise UserError(self._cause_of_death(seconds)) from None
        finally:
            limit.cancel()
            if not answered:  # also after Ctrl-C: the next answer would be to another question
                self._bury()
        if not fine:
            told, where = value
            raise UserError(told) from RuntimeError(f"in the rewards' worker:\n{where}")
        return value

    def _expire(self) -> None:
        self.late = True
        _kill(self.process)

    def _bury(self) -> None:
        self.end()
        self.process.join(5)
        self.pipe.close()

    def _cause_of_death(self, seconds: float) -> str:
        who = f"reward: the worker of {', '.join(self.names)}"
        if self.late:
            return f"{who} gave no answer within {seconds:g} s and was ended (reward_worker)"
        self._bury()
        code = self.process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ", out of memory?" if code == -signal.SIGKILL else ""
        return f"{who} died ({cause}{hint})"


@dataclass(frozen=True)
class WorkerReward:
    """A Reward: one of those that a worker holds."""

    worker: Worker
    name: str

    @property
    def per_group(self) -> bool:
        return self.worker.per_group[self.name]

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N"]:
        return self.worker.ask(self.name, images, prompts).to(images.device)


def load_in_worker(
    names: Sequence[str],
    *,
    device: str = "cpu",
    threads: int = 0,
    timeout: float,
    loading: float,
    fields: Fields = NO_FIELDS,
) -> dict[str, Reward]:
    """The rewards of these names, all in one worker.

    `timeout` and `loading` are seconds for an answer and for the start; `threads` 0: as many as
    this process has. `fields` as for `load_rewards`; they are sent once, at the start.
    """
    limits = {"timeout": timeout, "loading": loading}
    worker = Worker(names, device=device, threads=threads, fields=fields, **limits)
    return {name: WorkerReward(worker, name) for name in names}
