"""Requests that come at once, written in one transaction: who asks is answered after its commit.

A transaction for each of many small requests costs more than their work; one for all that came
meanwhile costs each of them no time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class GroupWriter(Generic[Item, Answer]):
    """A thread that takes what has come, up to `most` units, and has `write` write it.

    Each future gets its answer.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        *,
        name: str,
        most: int = 500,
        size: Callable[[Item], int] = lambda _: 1,
        linger: float = 0.0,
        alone: bool = False,
    ) -> None:
        """Call `write` with items of at most `most` units by `size` together.

        Together go those that come within `linger` seconds of the first. An exception in the place
        of an answer is raised to who asked. `alone`: when a group fails, each is tried by itself.
        """
        self._write = write
        self._most = most
        self._size = size
        self._linger = linger
        self._alone = alone
        self._waiting: queue.SimpleQueue[tuple[Item, Future[Answer]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, item: Item) -> Future[Answer]:
        """Hand in an item; the future ends after the commit, or with what `write` raised."""
        answer: Future[Answer] = Future()
        self._waiting.put((item, answer))
        return answer

    def _run(self) -> None:
        while True:
            group = [self._waiting.get()]
            units = self._size(group[0][0])
            if self._linger:
                # Callers whom the last group has answered come again together; without this pause
                # the first of them would go alone.
                time.sleep(self._linger)
            while units < self._most:
                try:
                    group.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
                units += self._size(group[-1][0])
            # Who has hung up is not answered, which would end the thread; what was asked is written
            # all the same.
            heard = [answer.set_running_or_notify_cancel() for _, answer in group]
            for (_, answer), listens, result in zip(
                group, heard, self._results([item for item, _ in group]), strict=True
            ):
                if not listens:
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _results(self, items: list[Item]) -> list[Answer | Exception]:
        try:
            return list(self._write(items))
        except Exception as error:  # noqa: BLE001 - each request hears of it, and the thread must live on
            if not self._alone or len(items) == 1:
                return [error] * len(items)
        # One that cannot be written must not spoil the others.
        return [result for item in items for result in self._results([item])]
