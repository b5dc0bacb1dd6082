"""A long line on loopback: bytes leave it as late as they would arrive from far away, and as fast as they came.

`python -m benchmarks.delay TARGET_PORT ROUND_TRIP_S` prints the port it listens on, and ends with its stdin. A process
of its own, so that its work is not counted as the client's.
"""

import asyncio
import collections
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BLOCK = 1 << 18


@contextmanager
def delayed(port: int, round_trip_s: float) -> Iterator[int]:
    """The port at which the server on `port` is that far away; its own port for no distance."""
    if not round_trip_s:
        yield port
        return
    command = [sys.executable, "-m", "benchmarks.delay", str(port), str(round_trip_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()


async def _serve(port: int, delay_s: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * BLOCK)
        with suppress(asyncio.CancelledError):  # the line ends with connections that are still open
            await asyncio.gather(_carry(reader, far_writer, delay_s), _carry(far_reader, writer, delay_s))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4 * BLOCK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """One direction. What is under way lies in a queue without bounds: a line limits nothing by itself."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    loop = asyncio.get_running_loop()
    queue: collections.deque[tuple[float, bytes]] = collections.deque()
    more = asyncio.Event()

    async def deliver() -> None:
        while True:
            while not queue:
                more.clear()
                await more.wait()
            due_s, data = queue.popleft()
            if (left_s := due_s - loop.time()) > 0:
                await asyncio.sleep(left_s)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    task = asyncio.create_task(deliver())
    data = b"begin"
    while data:
        try:
            data = await reader.read(BLOCK)
        except OSError:
            data = b""
        queue.append((loop.time() + delay_s, data))
        more.set()
    with suppress(OSError):
        await task


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 2))
