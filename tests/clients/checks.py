"""What the Python checks share: one line for each check, and an exit code."""

import os
import sys
import traceback

_number = 0
_failed = 0


def env(name):
    """A needed environment variable."""
    value = os.environ.get(name)
    if not value:
        print(f"not ok - {name} is not set")
        sys.exit(1)
    return value


def check(name, body):
    """Runs one check; it fails when `body` raises."""
    global _number, _failed
    _number += 1
    try:
        body()
        print(f"ok {_number} - {name}", flush=True)
    except Exception:
        _failed += 1
        print(f"not ok {_number} - {name}", flush=True)
        print("    " + traceback.format_exc(limit=6).rstrip().replace("\n", "\n    "), flush=True)


def same(got, want):
    """Fails unless both are equal."""
    if got != want:
        raise AssertionError(f"got {got!r}, wanted {want!r}")


def finish():
    """Ends the process: 1 when a check failed or none was made."""
    print(f"1..{_number}", flush=True)
    sys.exit(1 if _failed or not _number else 0)
