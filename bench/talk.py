"""The two ends of a conversation by TCP, each a process of its own: `python -I -S talk.py receive|send ADDRESS PROCESSOR`.

Invariant: an end lives until its standard input is closed, so none outlives the bench. A sender is told `stream SECONDS`, and
prints the bytes per second that have arrived, or `echo COUNT`, and prints the median seconds that a byte takes there and back.
"""

import os
import select
import socket
import statistics
import struct
import sys
import time

PORT = 5201
CHUNK = bytes(256 * 1024)
FIRST_TRIPS = 20
"""Not counted: neighbours are found, caches warmed."""


def receive(address: str) -> None:
    with socket.create_server((address, PORT)) as server:
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in readable:
                return
            with server.accept()[0] as opened:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _sink(opened) if opened.recv(1) == b"s" else _mirror(opened)


def _sink(opened: socket.socket) -> None:
    """The receiver's clock counts: what the sender has got rid of has not arrived."""
    buffer = memoryview(bytearray(len(CHUNK)))
    total, started = opened.recv_into(buffer), time.perf_counter()
    first = total
    while count := opened.recv_into(buffer):
        total += count
    opened.sendall(struct.pack("!d", (total - first) / (time.perf_counter() - started)))


def _mirror(opened: socket.socket) -> None:
    while byte := opened.recv(1):
        opened.sendall(byte)


def send(address: str) -> None:
    for line in sys.stdin:
        order, amount = line.split()
        with socket.create_connection((address, PORT), timeout=20) as opened:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            print(_stream(opened, float(amount)) if order == "stream" else _echo(opened, int(amount)), flush=True)


def _stream(opened: socket.socket, seconds: float) -> float:
    opened.sendall(b"s")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        opened.sendall(CHUNK)
    opened.shutdown(socket.SHUT_WR)
    [rate] = struct.unpack("!d", opened.recv(8, socket.MSG_WAITALL))
    return float(rate)


def _echo(opened: socket.socket, count: int) -> float:
    opened.sendall(b"e")
    times = []
    for _ in range(FIRST_TRIPS + count):
        started = time.perf_counter()
        opened.sendall(b"x")
        opened.recv(1)
        times.append(time.perf_counter() - started)
    return statistics.median(times[FIRST_TRIPS:])


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[3])})
    (receive if sys.argv[1] == "receive" else send)(sys.argv[2])
