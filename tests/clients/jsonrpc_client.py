"""JSON-RPC 2.0 clients of PyPI against `/rpc`, and the examples of the specification on both transports.

The examples name methods that we do not have (`subtract`, `sum` …): ours stand in for them, the messages are otherwise those of section 7.
"""

import asyncio
import json
import urllib.error
import urllib.request

import aiohttp
import jsonrpclib
from jsonrpc_base.jsonrpc import ProtocolError, TransportError
from jsonrpc_websocket import Server

from checks import check, env, finish, same

URL = env("URL") + "/rpc"
WS_URL = URL.replace("http", "ws", 1)
BEARER = {"Authorization": "Bearer " + env("TOKEN")}


def post(text, headers=None):
    """Raw POST: (status, decoded body or None)."""
    request = urllib.request.Request(
        URL, data=text.encode(), method="POST", headers={"Content-Type": "application/json", **(BEARER if headers is None else headers)}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    return status, json.loads(body) if body.strip() else None


def by_socket(*texts):
    """Sends texts on one WebSocket; one answer is read for each that wants one, told by a closing request with id `end`."""

    async def talk():
        answers = []
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(WS_URL, headers=BEARER) as socket:
                for text in texts:
                    await socket.send_str(text)
                await socket.send_str('{"jsonrpc":"2.0","method":"health","id":"end"}')
                while True:
                    answer = json.loads((await asyncio.wait_for(socket.receive(), 30)).data)
                    if isinstance(answer, dict) and answer.get("id") == "end":
                        return answers
                    if isinstance(answer, dict) and "method" in answer and "id" not in answer:
                        continue
                    answers.append(answer)

    return asyncio.run(talk())


def code(answer):
    return answer["error"]["code"]


# -- the specification's examples: (name, text, what must come back)

def is_result(answer):
    same(answer["jsonrpc"], "2.0")
    same(answer["id"], 1)
    assert isinstance(answer["result"], dict) and "error" not in answer


def is_error(number, id_=None):
    def inner(answer):
        same(answer["jsonrpc"], "2.0")
        same((code(answer), answer["id"]), (number, id_))
        assert "result" not in answer and isinstance(answer["error"]["message"], str)

    return inner


def is_batch_of(count, number):
    def inner(answers):
        same(len(answers), count)
        for answer in answers:
            is_error(number)(answer)

    return inner


def is_mixed(answers):
    by_id = {json.dumps(a["id"]): a for a in answers}
    same(sorted(by_id), sorted(['"1"', '"2"', '"5"', '"9"', "null"]))
    assert "result" in by_id['"1"'] and "result" in by_id['"2"'] and "result" in by_id['"9"']
    same(code(by_id["null"]), -32600)
    same(code(by_id['"5"']), -32601)


MIXED = """[
  {"jsonrpc": "2.0", "method": "health", "params": {}, "id": "1"},
  {"jsonrpc": "2.0", "method": "status", "params": {}},
  {"jsonrpc": "2.0", "method": "agents.list", "params": {}, "id": "2"},
  {"foo": "boo"},
  {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
  {"jsonrpc": "2.0", "method": "models.list", "id": "9"}
]"""

EXAMPLES = [
    ("named parameters", '{"jsonrpc": "2.0", "method": "logs.tail", "params": {"limit": 1}, "id": 1}', is_result),
    ("no parameters", '{"jsonrpc": "2.0", "method": "health", "id": 1}', is_result),
    ("notification", '{"jsonrpc": "2.0", "method": "health", "params": {}}', None),
    ("notification of an unknown method", '{"jsonrpc": "2.0", "method": "foobar"}', None),
    ("unknown method", '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', is_error(-32601, "1")),
    ("invalid JSON", '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', is_error(-32700)),
    ("invalid request object", '{"jsonrpc": "2.0", "method": 1, "params": "bar"}', is_error(-32600)),
    ("batch, invalid JSON", '[{"jsonrpc": "2.0", "method": "health", "id": "1"},{"jsonrpc": "2.0", "method"]', is_error(-32700)),
    ("empty batch", "[]", is_error(-32600)),
    ("invalid batch (but not empty)", "[1]", is_batch_of(1, -32600)),
    ("invalid batch", "[1,2,3]", is_batch_of(3, -32600)),
    ("mixed batch", MIXED, is_mixed),
    (
        "batch of notifications",
        '[{"jsonrpc": "2.0", "method": "health", "params": {}},{"jsonrpc": "2.0", "method": "foobar", "params": {}}]',
        None,
    ),
    # beyond the examples: what section 4 says
    ("version other than 2.0", '{"jsonrpc": "1.0", "method": "health", "id": 1}', is_error(-32600, 1)),
    ("no version", '{"method": "health", "id": 1}', is_error(-32600, 1)),
    ("id null is a request", '{"jsonrpc": "2.0", "method": "foobar", "id": null}', is_error(-32601, None)),
    ("wrong parameter", '{"jsonrpc": "2.0", "method": "logs.tail", "params": {"limit": "x"}, "id": 7}', is_error(-32602, 7)),
    ("unknown parameter", '{"jsonrpc": "2.0", "method": "logs.tail", "params": {"limmit": 1}, "id": 7}', is_error(-32602, 7)),
]


def over_post(text, expect):
    def run():
        status, answer = post(text)
        if expect is None:
            assert status in (200, 202, 204) and answer is None, (status, answer)
        else:
            same(status, 200)
            expect(answer)

    return run


def over_socket(text, expect):
    def run():
        answers = by_socket(text)
        if expect is None:
            same(answers, [])
        else:
            same(len(answers), 1)
            expect(answers[0])

    return run


for name, text, expect in EXAMPLES:
    check(f"POST: {name}", over_post(text, expect))
    check(f"WebSocket: {name}", over_socket(text, expect))


# -- the clients themselves

def pelix():
    server = jsonrpclib.ServerProxy(URL, headers=BEARER)
    assert server.agents.list()["agents"]
    assert isinstance(server.logs.tail(limit=1)["lines"], list)
    batch = jsonrpclib.MultiCall(server)
    batch.health()
    batch.agents.list()
    first, second = batch()
    assert isinstance(first, dict) and second["agents"]
    try:
        server.no.such.method()
    except jsonrpclib.ProtocolError as error:
        same(error.args[0][0], -32601)
        return
    raise AssertionError("an unknown method was called")


def socket_client():
    async def talk():
        server = Server(WS_URL, headers=dict(BEARER))
        await server.ws_connect()
        try:
            assert (await server.agents.list())["agents"]
            many = await asyncio.gather(*(server.health() for _ in range(20)))
            same(len(many), 20)
            try:
                await server.no.such.method()
            except ProtocolError as error:
                same(error.args[0], -32601)
            else:
                raise AssertionError("an unknown method was called")
        finally:
            await server.close()

    asyncio.run(talk())


# Covers: A1, A13.
def no_bearer():
    text = '{"jsonrpc": "2.0", "method": "health", "id": 1}'
    for headers in [{}, {"Authorization": "Bearer " + "f" * 64}, {"Authorization": "Bearer "}, {"Authorization": "Basic eDp5"}]:
        status, _ = post(text, headers)
        same(status, 401)

    async def upgrade():
        server = Server(WS_URL, headers={})
        try:
            await server.ws_connect()
        except TransportError:
            return
        raise AssertionError("upgraded without a bearer")

    asyncio.run(upgrade())


# Covers: B3.
def foreign_origin():
    status, _ = post('{"jsonrpc": "2.0", "method": "health", "id": 1}', {**BEARER, "Origin": "https://evil.example"})
    same(status, 403)


check("POST: jsonrpclib-pelix", pelix)
check("WebSocket: jsonrpc-websocket", socket_client)
check("no bearer, wrong bearer: 401 before any call", no_bearer)
check("a foreign Origin is refused although the bearer is right", foreign_origin)
finish()
