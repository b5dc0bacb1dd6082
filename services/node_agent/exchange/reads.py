"""Which parts of a file a download has asked for, which have come, and what is to be asked next."""

from collections.abc import Iterator
from dataclasses import dataclass

READ_BLOCK = 255 << 10  # what is asked for; a server that answers less is asked for less from then on


@dataclass(frozen=True)
class Answer:
    """One packet of the hub: `body` is what follows the number of the request."""

    kind: int
    request: int
    body: bytes


class Reads:
    """`start` to `end` of a file, at most `in_flight` bytes of it between what was handed out and what was asked."""

    def __init__(self, start: int, end: int, in_flight: int) -> None:
        self.position = start  # everything before has been handed out
        self.asked = start
        self.waiting: dict[int, tuple[int, int]] = {}  # request -> (offset, size)
        self._end = end
        self._in_flight = in_flight
        self._again: list[tuple[int, int]] = []
        self._early: dict[int, memoryview] = {}  # came before its turn
        self._block = self._batch = min(READ_BLOCK, in_flight // 2)

    def next_requests(self) -> list[tuple[int, int]]:
        """Enough to have that many bytes in flight."""
        requests, self._again = self._again, []
        limit = min(self._end, self.position + self._in_flight)
        if limit - self.asked >= self._batch or limit == self._end:
            for size in blocks(self.asked, limit, self._block):
                requests.append((self.asked, size))
                self.asked += size
        return requests

    def take(self, answer: Answer) -> bool:
        """False for an answer nobody asked for, an empty one, or one longer than asked."""
        offset, size = self.waiting.pop(answer.request, (0, 0))
        got = len(answer.body) - 4
        if not 0 < got <= size or got != int.from_bytes(answer.body[:4], "big"):
            return False
        if got < size:
            self._block = min(self._block, got)
            rest = offset + got
            for piece in blocks(rest, offset + size, self._block):
                self._again.append((rest, piece))
                rest += piece
        self._early[offset] = memoryview(answer.body)[4:]
        return True

    def in_order(self) -> Iterator[memoryview]:
        while (data := self._early.pop(self.position, None)) is not None:
            self.position += len(data)
            yield data


def blocks(start: int, end: int, size: int) -> Iterator[int]:
    """Sizes of the blocks that cover `start` to `end`."""
    for position in range(start, end, size):
        yield min(size, end - position)
