"""The web server: waitress, with JSON for every error and a stop that finishes what runs."""

import errno
import ipaddress
import json
import signal
import socket
import threading
import time
from contextlib import suppress

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import RequestEntityTooLarge

from data_prep.common.errors import UserError

from . import log

DRAINED = (
    1 << 30
)  # bytes of a body that are read and thrown away, so that its sender gets an answer
HEADERS = 32 << 10  # bytes of a request's headers
SPARE = 4  # threads and connections beyond those of photographs, for the page and /health
PATIENCE = 30  # seconds that a stop waits for the requests that run


def listen(host, port):
    """A bound socket; raises UserError. port: 0 is any free one."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, proto=socket.IPPROTO_TCP
        )
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host} is not an address of this machine") from None
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        # A port whose last connections are still closing is free.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        reason = {
            errno.EADDRINUSE: f"port {port} of {host} is in use: choose another one with --port",
            errno.EACCES: f"port {port} may not be used by this user: choose one above 1023 with "
            "--port",
            errno.EADDRNOTAVAIL: f"--host {host} is not an address of this machine",
        }.get(error.errno, f"{host}:{port} can't be used: {error.strerror}")
        raise UserError(reason) from None
    return bound


def is_loopback(bound):
    """Whether only this machine reaches a bound socket."""
    return _number(bound).is_loopback


def is_everywhere(bound):
    """Whether a bound socket is reached at every address of this machine."""
    return _number(bound).is_unspecified


def _number(bound):
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0])


def in_address(host):
    """The host as it is written in an address: with brackets around a number of IPv6."""
    return f"[{host}]" if ":" in host else host


class _Error(ErrorTask):
    """The answer to a request that never reaches the application, as JSON."""

    def execute(self):
        error = self.request.error
        reason = error.body if error.code == 413 else error.reason.capitalize()
        body = (json.dumps({"error": reason}) + "\n").encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        log.request("-", "-", error.code)


class _Nothing:
    """Takes the bytes of a body that is not kept."""

    def append(self, data):
        pass

    def __len__(self):
        return 0

    def getfile(self):
        raise AssertionError("a body that was not kept is not read")

    def close(self):
        pass


def _parser(limit, reason):
    """The class of requests' parsers. limit: bytes of a body that are kept."""

    class Parser(HTTPRequestParser):
        """Reads a larger body to its end, so that its sender reads the answer, and drops it."""

        too_large = False

        def parse_header(self, header_plus):
            super().parse_header(header_plus)
            if limit < self.content_length < DRAINED:
                self.too_large = True
                self.body_rcv = FixedStreamReceiver(self.content_length, _Nothing())

        def received(self, data):
            taken = super().received(data)
            # One who asks before sending has nothing to send then.
            refused = self.too_large and (self.completed or self.expect_continue)
            if (refused or self.body_bytes_received > limit and self.chunked) and not self.error:
                self.error, self.completed = RequestEntityTooLarge(reason), True
                self.expect_continue = False
            elif self.error and self.error.code == 413:
                self.error = RequestEntityTooLarge(reason)
            return taken

    return Parser


class Server(TcpWSGIServer):
    """waitress on a bound socket.

    app     WSGI application
    places  requests that wait for the application at a time
    limit   bytes of a request's body; reason: of the answer to a larger one
    """

    def __init__(self, app, bound, places, limit, reason):
        threads = places + SPARE
        settings = Adjustments(
            sockets=[bound],
            threads=threads,
            connection_limit=4 * threads,
            max_request_header_size=HEADERS,
            max_request_body_size=DRAINED,
            asyncore_use_poll=True,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        self.channel_class = type(
            "Channel",
            (HTTPChannel,),
            {"error_task_class": _Error, "parser_class": _parser(limit, reason)},
        )
        dispatcher = ThreadedTaskDispatcher()
        # Waiting requests are normal here, and no reason for its warnings.
        dispatcher.queue_logger = log.Silent()
        dispatcher.set_thread_count(threads)
        super().__init__(
            app,
            {},
            _sock=bound,
            dispatcher=dispatcher,
            adj=settings,
            bind_socket=False,
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
        )
        self._stopping = threading.Event()

    @property
    def port(self):
        return int(self.effective_port)

    def stop(self):
        """Make `run` return, after the requests that run; any thread or signal handler may."""
        self._stopping.set()
        with suppress(OSError):  # it has ended already
            self.pull_trigger()

    def stop_on_signals(self):
        """Let Ctrl-C and SIGTERM stop the server; a second one ends the process at once."""

        def stop(number, frame):
            signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
            self.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)

    def run(self):
        """Serve until `stop`."""
        while not self._stopping.is_set():
            self._step(1)
        self.accepting = False
        self.del_channel()
        self.socket.close()
        end = time.monotonic() + PATIENCE
        while self._busy() and time.monotonic() < end:
            self._step(0.05)
        self.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)

    def _step(self, seconds):
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _busy(self):
        """Whether a whole request waits for its answer, or an answer for its client."""
        return any(
            channel.requests or channel.total_outbufs_len or channel.close_when_flushed
            for channel in list(self.active_channels.values())
        )
