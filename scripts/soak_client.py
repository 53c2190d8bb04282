"""A client of scripts/soak_apps.sh: asks for SECONDS, checks every byte, ends with 1 and a line
if one is wrong. Usage: soak_client.py nginx|redis|memcached PAGE SECONDS"""

import os
import socket
import sys
import threading
import time

KIND, PAGE, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
THREADS = 4
UNTIL = time.monotonic() + SECONDS
COUNTS = [0] * THREADS


def connect(address, port):
    try:
        s = socket.create_connection((address, port), 30)
    except TimeoutError as error:
        raise TimeoutError("no connection") from error
    s.settimeout(30)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s, s.makefile("rb")


def expect(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got[:80]!r} ({len(got)} bytes), not {wanted[:80]!r} ({len(wanted)})")


def nginx(number):
    """One connection for each page, so that a reload may fail none."""
    with open(PAGE, "rb") as f:
        page = f.read()
    while time.monotonic() < UNTIL:
        s, f = connect("10.78.1.1", 80)
        s.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = f.read()
        head, _, body = answer.partition(b"\r\n\r\n")
        expect(head[:15], b"HTTP/1.1 200 OK")
        expect(body, page)
        s.close()
        COUNTS[number] += 1


def redis(number):
    s, f = connect("10.78.2.1", 6379)
    turn = 0
    while time.monotonic() < UNTIL:
        turn += 1
        key = b"k%d-%d" % (number, turn % 500)
        value = os.urandom(1 + turn * 37 % 20000)
        s.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value)
                  + b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key))
        expect(f.readline(), b"+OK\r\n")
        expect(f.readline(), b"$%d\r\n" % len(value))
        expect(f.read(len(value) + 2), value + b"\r\n")
        if number == 0 and turn % 400 == 0:
            s.sendall(b"BGSAVE\r\n")
            f.readline()
        COUNTS[number] += 1


def memcached(number):
    s, f = connect("10.78.3.1", 11211)
    turn = 0
    while time.monotonic() < UNTIL:
        turn += 1
        key = b"k%d-%d" % (number, turn % 500)
        value = os.urandom(1 + turn * 41 % 20000)
        s.sendall(b"set %s 0 0 %d\r\n%s\r\nget %s\r\n" % (key, len(value), value, key))
        expect(f.readline(), b"STORED\r\n")
        expect(f.readline(), b"VALUE %s 0 %d\r\n" % (key, len(value)))
        expect(f.read(len(value) + 2), value + b"\r\n")
        expect(f.readline(), b"END\r\n")
        COUNTS[number] += 1


def run(number):
    try:
        {"nginx": nginx, "redis": redis, "memcached": memcached}[KIND](number)
    except BaseException as error:  # whatever it is, it must be seen
        print(f"{KIND} {number} after {COUNTS[number]}: {error!r}", flush=True)
        os._exit(1)


threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{KIND}: {sum(COUNTS)} requests", flush=True)
