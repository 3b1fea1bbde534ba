"""A cache of values in memory, of limited size."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class RecentlyUsed:
    """A cache of limited size that drops the least recently used values first. Threads may share it.

    Args:
        limit: Largest total size of the values in bytes. The last value always stays.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], T], size_of: Callable[[T], int]) -> T:
        """Return the value of a key, and make it if it is not there.

        Args:
            key: Key of the value.
            make: Function that makes the value.
            size_of: Function that returns the size of the value in bytes.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                value: T = self._values[key][0]
                return value
        made = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = (made, size_of(made))
                self.size += size_of(made)
            while self.size > self.limit and len(self._values) > 1:
                self.size -= self._values.popitem(last=False)[1][1]
        return made
