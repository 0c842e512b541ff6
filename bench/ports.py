"""Published ports: one more, ten thousand, and what a new connection pays for them beside as many rules of iptables.

Invariant: both lead to the same container, on hosts of their own, and take turns; each connection is made and answered.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.hosts import PREFIX, inside, namespaces, run
from bench.measure import Figure, Table
from ductwork.app import build_engine
from ductwork.engine import Engine
from ductwork.publishing import PublishRequest
from ductwork.site.load import load_text
from ductwork.site.model import Site
from ductwork.site.values import listen, port_target

MANY = 10_000
SIZES = (1, 100, MANY)
FIRST, SPARE = 10_000, 9_000
OURS, THEIRS, OUTSIDE, WEB = (PREFIX + name for name in ("ports", "rules", "clients", "web"))
APPLY_TARGET_MS, ONE_MORE_TARGET_MS = 3000.0, 10.0
IPTABLES = "iptables, a rule for each"


def tables(rounds: int) -> Iterator[Table]:
    with namespaces([OURS, THEIRS, OUTSIDE, WEB]), tempfile.TemporaryDirectory(prefix="dwb-") as folder:
        for number, host in ((1, OURS), (2, THEIRS)):
            _cable(number, host)
        yield from _Ports(Path(folder)).measured(rounds)


def _cable(number: int, host: str) -> None:
    nic = f"eth{number}"
    run("ip", "-n", host, "link", "add", "name", "eth0", "type", "veth", "peer", "name", nic, "netns", OUTSIDE)
    for ns, name, last in ((host, "eth0", 1), (OUTSIDE, nic, 2)):
        run("ip", "-n", ns, "address", "add", f"198.18.{number}.{last}/24", "dev", name)
        run("ip", "-n", ns, "link", "set", "dev", name, "up")


class _Ports:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def measured(self, rounds: int) -> Iterator[Table]:
        figures: list[Figure] = []
        connections: dict[int, dict[str, list[float]]] = {}
        for size in SIZES:
            with self._engine() as engine:
                site = _site(size, "10.80.0.0/24")
                first = _timed(
                    f"apply {size:,} ports, the host untouched before", partial(engine.apply, site, ""), APPLY_TARGET_MS
                )
                figures += [first] if size == MANY else []
                figures += _one_more(engine, size, 5 * rounds)
                with _iptables(size), _answering():
                    connections[size] = _connect(size, 20 * rounds)
                engine.destroy(None)
        with self._engine() as engine:
            figures += _both_families(engine)
        yield Table("published ports", tuple(figures))
        for size, samples in connections.items():
            rows = tuple(Figure(name, tuple(its), "µs") for name, its in samples.items())
            yield Table(f"a new connection, {size:,} ports published", rows, f"{IPTABLES}: the last")

    @contextlib.contextmanager
    def _engine(self) -> Iterator[Engine]:
        with inside(OURS), build_engine(self._folder / "state") as engine:
            yield engine


def _site(size: int, *subnets: str) -> Site:
    network = {"driver": "bridge", "subnets": subnets}
    plug = {"container": f"netns:{WEB}", "network": "lan"}
    ports = [{"listen": FIRST + number, "to": f"netns:{WEB}:80"} for number in range(size)]
    return load_text(json.dumps({"name": "ports", "networks": {"lan": network}, "attachments": [plug], "ports": ports}))


def _timed(name: str, work: Callable[[], object], target: float | None = None) -> Figure:
    started = time.perf_counter()
    work()
    return Figure(name, ((time.perf_counter() - started) * 1000,), target=target)


def _both_families(engine: Engine) -> Iterator[Figure]:
    """Two elements for each port, and two for each range."""
    site = _site(MANY, "10.80.0.0/24", "fd00:80::/64")
    yield _timed(f"apply {MANY:,} ports of both families", partial(engine.apply, site, ""), APPLY_TARGET_MS)
    yield _timed("the same again, nothing to do", partial(engine.apply, site, ""))
    range_ = PublishRequest(listen("1000-8999"), port_target(f"netns:{WEB}:1000-8999"))
    yield _timed("publish 8,000 as a range", partial(engine.publisher.publish, range_))
    yield _timed("unpublish them", partial(engine.publisher.unpublish, range_.listen, "tcp"))
    yield _timed("destroy", partial(engine.destroy, None))


def _one_more(engine: Engine, size: int, times: int) -> Iterator[Figure]:
    opened, closed = [], []
    for number in range(times):
        where = listen(SPARE + number)
        started = time.perf_counter()
        engine.publisher.publish(PublishRequest(where, port_target(f"netns:{WEB}:80")))
        between = time.perf_counter()
        engine.publisher.unpublish(where, "tcp")
        opened.append((between - started) * 1000)
        closed.append((time.perf_counter() - between) * 1000)
    target = ONE_MORE_TARGET_MS if size == MANY else None
    yield Figure(f"publish one more beside {size:,}", tuple(opened), target=target)
    yield Figure(f"unpublish it beside {size:,}", tuple(closed), target=target)


@contextlib.contextmanager
def _iptables(size: int) -> Iterator[None]:
    """The same container behind the other host, by a rule for each port, as Docker has them."""
    if not shutil.which("iptables-restore"):
        yield
        return
    run("ip", "-n", THEIRS, "link", "add", "name", "web0", "type", "veth", "peer", "name", "other0", "netns", WEB)
    for ns, name, last in ((THEIRS, "web0", 1), (WEB, "other0", 2)):
        run("ip", "-n", ns, "address", "add", f"10.81.0.{last}/24", "dev", name)
        run("ip", "-n", ns, "link", "set", "dev", name, "up")
    run("ip", "-n", WEB, "route", "add", "198.18.2.0/24", "via", "10.81.0.1")
    rules = [f"-A PREROUTING -p tcp --dport {FIRST + n} -j DNAT --to-destination 10.81.0.2:80" for n in range(size)]
    run("ip", "netns", "exec", THEIRS, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run("ip", "netns", "exec", THEIRS, "iptables-restore", feed="\n".join(["*nat", *rules, "COMMIT", ""]))
    try:
        yield
    finally:
        run("ip", "netns", "exec", THEIRS, "iptables", "-t", "nat", "-F")
        run("ip", "-n", THEIRS, "link", "del", "dev", "web0")


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    with inside(WEB):
        listening = socket.create_server(("0.0.0.0", 80), backlog=1024)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                listening.accept()[0].close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _connect(size: int, times: int) -> dict[str, list[float]]:
    """Microseconds of a TCP connection from outside through the first port and the last, in turns."""
    places = {"ductwork": "198.18.1.1"} | ({IPTABLES: "198.18.2.1"} if shutil.which("iptables-restore") else {})
    ends = {"the first": FIRST, "the last": FIRST + size - 1}
    samples: dict[str, list[float]] = {f"{name}: {end}": [] for name in places for end in ends}
    with inside(OUTSIDE):
        for number in range(times + 5):
            for name, address in places.items():
                for end, port in ends.items():
                    with socket.socket() as client:
                        started = time.perf_counter()
                        client.connect((address, port))
                        took = (time.perf_counter() - started) * 1e6
                    if number >= 5:
                        samples[f"{name}: {end}"].append(took)
    return samples
