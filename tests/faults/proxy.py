"""A TCP proxy that can make a network misbehave (the toxics of toxiproxy, in one thread and no dependency).

    with Proxy(("127.0.0.1", 6379)) as proxy:
        connect to proxy.address …
        proxy.latency_s = 0.2       # every chunk waits so long, either way
        proxy.bytes_per_s = 1000    # slow, either way
        proxy.cut()                 # reset (RST) every connection that is open; new ones work
        proxy.refuse()              # listen no more: connection refused; cut what is open
        proxy.go_half_open()        # accept and read, answer nothing, close nothing, either way
        proxy.strand()              # connections that are open hear nothing any more; new ones work
    proxy.swallow_answers()     # pass on what clients send, drop what the server answers
        proxy.heal()                # all as at first

`target` is `(host, port)` or the path of a Unix socket.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class Proxy:
    """Listens on a port of its own from construction on; `close` ends it. Thread-safe."""

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self._target = target
        self._drop = {"up": False, "down": False}
        self._writers: set[asyncio.StreamWriter] = set()
        self._stranded: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        with socket.socket() as probe:  # the port stays the same over `refuse` and `heal`
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._call(self._listen())

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def connections(self) -> int:
        """How many are open, as clients see them."""
        return len(self._writers) // 2

    def cut(self) -> None:
        self._call(self._reset_all())

    def refuse(self) -> None:
        self._call(self._stop_listening())
        self.cut()

    def go_half_open(self) -> None:
        self._drop.update(up=True, down=True)

    def strand(self) -> None:
        self._stranded |= self._writers

    def swallow_answers(self) -> None:
        self._drop["down"] = True

    def heal(self) -> None:
        """Well again. What was half-open is reset: its bytes are gone, so it could only be garbled."""
        self.latency_s, self.bytes_per_s = 0.0, None
        if any(self._drop.values()):
            self.cut()
        self._drop.update(up=False, down=False)
        if self._server is None:
            self._call(self._listen())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._writers.clear()
        self._stranded.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._target, Path):
                up_reader, up_writer = await asyncio.open_unix_connection(str(self._target))
            else:
                up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server behind is away: say so as the kernel would
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._pump(reader, up_writer, "up"), self._pump(up_reader, writer, "down"))
        finally:
            self._writers -= {writer, up_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(_CHUNK):
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                if self._drop[way] or writer in self._stranded:
                    continue
                writer.write(data)
                await writer.drain()
        if not any(self._drop.values()) and writer not in self._stranded:
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()
