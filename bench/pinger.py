"""When an address answers a ping for the first time.

Invariant: run as a program of its own (`python -I pinger.py INTERVAL ADDRESS…`), it takes no time of what is measured; one line
for each address, `ADDRESS SECONDS`, on the clock that all processes share (CLOCK_MONOTONIC), as soon as it has answered. Ends
when all have.
"""

import os
import select
import socket
import struct
import sys
import time

_ECHO, _REPLY = 8, 0


def _main(interval: float, addresses: set[str]) -> None:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    request = _packet(os.getpid() & 0xFFFF)
    print("ready", flush=True)
    while addresses:
        for address in addresses:
            try:
                raw.sendto(request, (address, 0))
            except OSError:  # nobody has answered the question for its MAC
                continue
        until = time.monotonic() + interval
        while addresses and select.select([raw], [], [], max(0.0, until - time.monotonic()))[0]:
            answer, (sender, _) = raw.recvfrom(2048)
            if sender in addresses and answer[20] == _REPLY and answer[24:26] == request[4:6]:
                print(sender, time.monotonic(), flush=True)
                addresses.discard(sender)


def _packet(identifier: int) -> bytes:
    packet = struct.pack("!BBHHH", _ECHO, 0, 0, identifier, 1)
    total = sum(struct.unpack("!4H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~total & 0xFFFF) + packet[4:]


if __name__ == "__main__":
    _main(float(sys.argv[1]), set(sys.argv[2:]))
