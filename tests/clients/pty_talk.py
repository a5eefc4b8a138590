"""Talks to a program on a terminal of its own, as a person would.

usage: pty_talk.py STEPS PROGRAM [ARGUMENT ...]

STEPS is a JSON list of [text to wait for, what to type]; "\u0000kill" ends the program with SIGKILL. All that the terminal
showed is printed at the end. The code is the program's own (137 when it was killed), or 99 when a text did not come.
"""

import json
import os
import pty
import select
import signal
import sys
import termios
import time

PATIENCE_S = 60


def main():
    steps = json.loads(sys.argv[1])
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.argv[2], sys.argv[2:])
    seen = b""
    at = 0
    missed = None

    def more(until):
        nonlocal seen
        ready, _, _ = select.select([terminal], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return False
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            piece = b""
        seen += piece
        return piece != b""

    for expected, typed in steps:
        until = time.monotonic() + PATIENCE_S
        while seen.find(expected.encode(), at) < 0:
            if not more(until):
                missed = expected
                break
        if missed is not None:
            break
        at = seen.find(expected.encode(), at) + len(expected.encode())
        # A person sees the question and types; the terminal must not show it from the first letter on.
        hidden = "not shown" in expected
        while hidden and termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < until:
            time.sleep(0.01)
        if typed == "\0kill":
            os.kill(pid, signal.SIGKILL)
        else:
            try:
                os.write(terminal, typed.encode() + b"\n")
            except OSError:
                # It has ended.
                pass
    if missed is not None:
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + PATIENCE_S
    while more(until):
        pass
    _, status = os.waitpid(pid, 0)
    sys.stdout.write(seen.decode("utf-8", "replace"))
    if missed is not None:
        sys.stdout.write(f"\n!!! never shown: {missed!r}\n")
        sys.exit(99)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(128 - code if code < 0 else code)


main()
