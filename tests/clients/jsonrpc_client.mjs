// npm `json-rpc-2.0` against `/rpc`, over POST and over WebSocket.

import { JSONRPCClient, JSONRPCServer, JSONRPCServerAndClient } from "json-rpc-2.0";
import { randomUUID } from "node:crypto";
import WebSocket from "ws";
import { assert, check, env, finish, until } from "./checks.mjs";

const url = `${env("URL")}/rpc`;
const authorization = `Bearer ${env("TOKEN")}`;

const post = new JSONRPCClient(async (request) => {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", authorization },
    body: JSON.stringify(request),
  });
  if (response.status === 200) post.receive(await response.json());
  else if (request.id !== undefined) throw new Error(`HTTP ${response.status}`);
});

await check("POST: request", async () => {
  assert.equal(typeof (await post.request("health", {})), "object");
  assert.ok((await post.request("agents.list", {})).agents.length > 0);
});

await check("POST: batch by the client", async () => {
  const answers = await post.requestAdvanced([
    { jsonrpc: "2.0", id: 1, method: "health", params: {} },
    { jsonrpc: "2.0", id: 2, method: "no.such.method", params: {} },
  ]);
  const by = new Map(answers.map((a) => [a.id, a]));
  assert.ok(by.get(1).result);
  assert.equal(by.get(2).error.code, -32601);
});

await check("POST: errors carry the standard code", async () => {
  await assert.rejects(Promise.resolve(post.request("no.such.method", {})), (e) => e.code === -32601);
  await assert.rejects(Promise.resolve(post.request("chat.send", { sessionKey: 1 })), (e) => e.code === -32602);
});

let socket;
const notifications = [];
const server = new JSONRPCServer();
server.addMethod("event", ({ event, seq, payload }) => {
  notifications.push({ name: event, seq, params: payload });
});
server.addMethod("agent.accepted", (params) => {
  notifications.push({ name: "agent.accepted", params });
});
const both = new JSONRPCServerAndClient(server, new JSONRPCClient((request) => socket.send(JSON.stringify(request))));

await check("WebSocket: no challenge; requests side by side", async () => {
  socket = new WebSocket(url.replace(/^http/, "ws"), { headers: { authorization } });
  const first = [];
  socket.on("message", (data) => {
    first.push(data.toString());
    both.receiveAndSend(JSON.parse(data.toString()));
  });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const [health, status] = await Promise.all([both.request("health", {}), both.request("status", {})]);
  assert.ok(health && status);
  assert.ok(!first[0].includes("connect.challenge"));
});

await check("WebSocket: events come as notifications after subscribe", async () => {
  const key = `agent:main:rpc-${randomUUID()}`;
  const { events } = await both.request("rpc.subscribe", { events: ["chat"] });
  assert.deepEqual(events, ["chat"]);
  await both.request("sessions.create", { key });
  const { runId } = await both.request("chat.send", { sessionKey: key, message: "by JSON-RPC", idempotencyKey: randomUUID() });
  await until("final", () => notifications.find((n) => n.name === "chat" && n.params.runId === runId && n.params.state === "final"));
  const names = [...new Set(notifications.map((n) => n.name))];
  assert.deepEqual(names, ["chat"], "an event came that was not asked for");
  const seqs = notifications.map((n) => n.seq);
  assert.deepEqual(seqs, seqs.map((_, i) => seqs[0] + i), "seq must have no gap");
});

await check("WebSocket: agent answers once, its acceptance is a notification", async () => {
  const before = notifications.length;
  const answer = await both.request("agent", { message: "once", agentId: "main", idempotencyKey: randomUUID() });
  assert.equal(answer.status, "ok");
  await until("agent.accepted", () => notifications.slice(before).find((n) => n.name === "agent.accepted"));
});

socket?.close();
finish();
