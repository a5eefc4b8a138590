"""kosoku (the Autobahn cases) against the echo of a test build, on the same WebSocket stack as everything else.

kosoku can be told host and port only, so a forwarder stands between: it asks for `/test-echo` in place of kosoku's path and Host.
Cases 12 and 13 (compression) do not apply: permessage-deflate is never negotiated.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from urllib.parse import urlsplit

from checks import check, env, finish

# Covers: R5, R7.
target = urlsplit(env("URL"))
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}


def start_forwarder():
    """A forwarder on a free port, in a thread of its own; gives back the port."""
    ready = threading.Event()
    port = []

    async def pump(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            try:
                writer.close()
            except OSError:
                pass

    async def accept(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            up_reader, up_writer = await asyncio.open_connection(target.hostname, target.port)
        except (ConnectionError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.close()
            return
        head = re.sub(rb"^GET \S+ ", b"GET /test-echo ", head)
        head = re.sub(rb"(?im)^host:[^\r\n]*", b"Host: " + target.netloc.encode(), head)
        head = re.sub(rb"(?im)^origin:[^\r\n]*\r\n", b"", head)
        up_writer.write(head)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    async def serve():
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    ready.wait(10)
    return port[0]


def verdicts(folder):
    """Case id → behaviour, from the report's index."""
    with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
        index = json.load(file)
    (agent,) = index.values()
    return {case: row["behavior"] for case, row in agent.items()}, {case: row.get("behaviorClose") for case, row in agent.items()}


def run():
    with tempfile.TemporaryDirectory(dir=".") as folder:
        kosoku = os.path.join(os.path.dirname(sys.executable), "kosoku")
        command = [kosoku, "-p", "4", "-x", "12.*", "-x", "13.*", "-o", folder, f"127.0.0.1:{start_forwarder()}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        index = os.path.join(folder, "index.json")
        assert os.path.exists(index), f"kosoku made no report ({done.returncode}): {done.stdout[-1500:]} {done.stderr[-1500:]}"
        return verdicts(folder)


results = {}


def made():
    behavior, close = run()
    results["behavior"], results["close"] = behavior, close
    assert len(behavior) > 200, f"only {len(behavior)} cases ran"


def none_failed(which):
    def inner():
        bad = {case: verdict for case, verdict in results[which].items() if verdict not in GOOD}
        counts = {}
        for verdict in results[which].values():
            counts[verdict] = counts.get(verdict, 0) + 1
        print("    " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
        assert not bad, bad

    return inner


check("kosoku runs all cases but 12 and 13", made)
if results:
    check("no case failed", none_failed("behavior"))
    check("no case failed in how it closes", none_failed("close"))
finish()
