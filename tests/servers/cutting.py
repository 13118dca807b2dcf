"""A way to a PostgreSQL server on which the answer to a commit gets lost, and perhaps the commit too."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SOCKET = ".s.PGSQL.5432"  # the name of a server's socket in its folder
_COMMIT = b"Q\0\0\0\x0bCOMMIT"  # a simple query, as the protocol has it


class Cutting:
    """Passes everything on, but for the first COMMIT once it is told to cut."""

    def __init__(self, server: Path, *, reaches: bool) -> None:
        self._server = server
        self._reaches = reaches  # whether that commit does
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.cut = threading.Event()

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, there = listener.accept()[0], socket.socket(socket.AF_UNIX)
                self._ends += [client, there]
                there.connect(str(self._server / _SOCKET))
                for source, target in ((client, there), (there, client)):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, target)))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while said := source.recv(65536):
                cuts = self.cut.is_set() and said.startswith(_COMMIT)
                if cuts:
                    self.cut.clear()
                    source.shutdown(socket.SHUT_RDWR)
                if self._reaches or not cuts:
                    target.sendall(said)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for thread in self._threads:  # each ends with its connection
            thread.join(10)
        for end in self._ends:
            end.close()


@contextmanager
def run_cutting(server: Path, folder: Path, *, reaches: bool) -> Iterator[threading.Event]:
    """Such a way, whose socket is in `folder`; it cuts when the event is set."""
    cutting = Cutting(server, reaches=reaches)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / _SOCKET))
        listener.listen()
        thread = threading.Thread(target=cutting.serve, args=(listener,))
        thread.start()
        try:
            yield cutting.cut
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            cutting.close()
