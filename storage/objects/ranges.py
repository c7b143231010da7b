"""Ranges of stored objects: fetched in parallel, handed out in order, however often the line is cut.

Knows nothing of what the bytes are; who needs them verified hashes them.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from corrigenda.errors import CorrigendaError, CorruptBlobError, StorageError
from corrigenda.storage.objects.interface import ObjectStore

_SPAN = 8 << 20  # bytes of one ranged request
_WORKERS = 8
_AHEAD = 12  # requests in flight or waiting to be used: bounds memory to _AHEAD * _SPAN
_TRIES = 6  # of one range
_PAUSE_S = 0.05  # before the second try; doubles, with jitter

Range = tuple[str, int, int]  # key, first byte, the byte after the last


def spans(key: str, start: int, stop: int) -> Iterator[Range]:
    """The bytes `start` to `stop` of an object in requests of at most _SPAN."""
    for begin in range(start, stop, _SPAN):
        yield key, begin, min(begin + _SPAN, stop)


@contextmanager
def bodies(store: ObjectStore, wanted: Iterable[Range]) -> Iterator[Iterator[memoryview]]:
    """Bodies of ranges in the order of the ranges, some of them fetched ahead.

    A body is valid until the next one is asked for: buffers are used again, because fresh memory of this
    size costs more than the copying does. Leaving the block cancels what was not begun.

    Raises StorageError when a range cannot be had, CorruptBlobError when the object ends before it,
    NotFoundError.
    """
    pool = ThreadPoolExecutor(_WORKERS)
    try:
        yield _in_order(pool, store, iter(wanted))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def take(found: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    """Bodies until `size` bytes have come."""
    while size > 0:
        body = next(found)
        size -= len(body)
        yield body


def _in_order(pool: ThreadPoolExecutor, store: ObjectStore, wanted: Iterator[Range]) -> Iterator[memoryview]:
    waiting: deque[Future[memoryview]] = deque()
    free: deque[bytearray] = deque()

    def first() -> Iterator[memoryview]:
        body = waiting.popleft().result()
        yield body
        if isinstance(body.obj, bytearray):
            free.append(body.obj)

    for span in wanted:
        waiting.append(pool.submit(_fetch, store, free, *span))
        if len(waiting) >= _AHEAD:
            yield from first()
    while waiting:
        yield from first()


def _fetch(store: ObjectStore, free: deque[bytearray], key: str, start: int, stop: int) -> memoryview:
    try:
        buffer = free.popleft()
    except IndexError:
        buffer = bytearray(_SPAN)
    view = memoryview(buffer)[: stop - start]
    for attempt in range(_TRIES):
        try:
            if store.read_into(key, start, view) == len(view):
                return view
        except CorrigendaError as fault:
            if not fault.retryable or attempt == _TRIES - 1:
                raise
        time.sleep(_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
    found = store.stat(key)
    if found is not None and found.size < stop:
        raise CorruptBlobError(
            "a stored object is shorter than was said",
            remedy="Run `corrigenda doctor`",
            key=key,
            size=found.size,
        )
    raise StorageError("a download was cut again and again", remedy="Run the same command again", key=key)
