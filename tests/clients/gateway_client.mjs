// OpenClaw's published client against our gateway; answers and frames are held against the published schema.

import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { GatewayClient } from "@openclaw/gateway-client";
import Ajv from "ajv";
import WebSocket from "ws";
import { assert, check, env, finish, until } from "./checks.mjs";

const url = env("URL").replace(/^http/, "ws");
const token = env("TOKEN");

const require = createRequire(import.meta.url);
const schemaPath = require.resolve("@openclaw/gateway-protocol").replace(/dist\/.*$/, "protocol.schema.json");
const schema = JSON.parse(readFileSync(schemaPath, "utf8"));
const ajv = new Ajv({ strict: false, allErrors: true, logger: false });
// Two optional members that the reference gateway of 2026.9.6 sends, newer than this schema (recorded from it; its own
// clients of 2026.9.1 take them). Everything else is held against the schema as published.
schema.definitions.PresenceEntry.properties.clientId = { type: "string", minLength: 1 };
for (const entry of [schema.definitions.Snapshot, schema.definitions.HelloOk.properties.snapshot]) {
  const row = entry?.properties?.presence?.items;
  if (row?.properties) row.properties.clientId = { type: "string", minLength: 1 };
}
schema.definitions.HelloOk.properties.auth.properties.method = { type: "string", minLength: 1 };
ajv.addSchema(schema, "protocol");

/** Fails unless `value` is what the published definition says. */
function valid(definition, value) {
  const validate = ajv.getSchema(`protocol#/definitions/${definition}`);
  assert.ok(validate, `the schema has no ${definition}`);
  if (!validate(value)) {
    const why = validate.errors.slice(0, 6).map((e) => `${e.instancePath || "/"} ${e.message} ${JSON.stringify(e.params)}`);
    throw new Error(`${definition}: ${why.join("; ")}\n${JSON.stringify(value).slice(0, 800)}`);
  }
}

/** A connected client with what it saw. */
async function connect(options = {}) {
  const events = [];
  const gaps = [];
  let client;
  const hello = await new Promise((resolve, reject) => {
    client = new GatewayClient({
      url,
      token,
      minProtocol: 4,
      maxProtocol: 4,
      onHelloOk: resolve,
      onConnectError: reject,
      onEvent: (event) => events.push(event),
      onGap: (gap) => gaps.push(gap),
      ...options,
    });
    client.start();
  });
  const of = (name, runId) =>
    events.filter((e) => e.event === name && (runId === undefined || e.payload?.runId === runId)).map((e) => e.payload);
  return { client, hello, events, gaps, of, stop: () => client.stopAndWait({ timeoutMs: 5_000 }).catch(() => client.stop()) };
}

/** The chat events of a run up to its end. */
async function ending(side, runId) {
  const last = await until(`end of run ${runId}`, () =>
    side.of("chat", runId).find((e) => ["final", "aborted", "error"].includes(e.state)),
  );
  return { last, chat: side.of("chat", runId) };
}

function text(message) {
  if (typeof message?.content === "string") return message.content;
  return (message?.content ?? []).filter((b) => b.type === "text").map((b) => b.text).join("");
}

let main;
await check("connect and hello-ok", async () => {
  main = await connect();
  valid("HelloOk", main.hello);
  assert.equal(main.hello.protocol, 4);
  for (const method of ["health", "status", "sessions.list", "chat.send", "chat.abort", "agent", "agent.wait"]) {
    assert.ok(main.hello.features.methods.includes(method), `${method} is not advertised`);
  }
});
if (!main) finish();
const ask = (method, params = {}, options) => main.client.request(method, params, options);

// Methods that need nothing, with the published definition of their answer where there is one.
const plain = [
  ["health"], ["status"], ["config.get"], ["sessions.list"], ["gateway.identity.get"],
  ["agents.list", {}, "AgentsListResult"], ["models.list", {}, "ModelsListResult"],
  ["channels.status", {}, "ChannelsStatusResult"], ["logs.tail", { limit: 20 }, "LogsTailResult"],
];
for (const [method, params = {}, definition] of plain) {
  await check(`${method}${definition ? ` is a ${definition}` : ""}`, async () => {
    const answer = await ask(method, params);
    assert.equal(typeof answer, "object");
    if (definition) valid(definition, answer);
  });
}

await check("system-presence lists this client", async () => {
  const rows = await ask("system-presence");
  assert.ok(Array.isArray(rows) && rows.length > 0);
  for (const row of rows) valid("PresenceEntry", row);
});

await check("sessions: create, describe, list, delete", async () => {
  const key = `agent:main:check-${randomUUID()}`;
  const made = await ask("sessions.create", { key });
  valid("SessionsCreateResult", made);
  assert.equal(made.key, key);
  const described = await ask("sessions.describe", { key });
  assert.equal(described.session?.key, key);
  const listed = await ask("sessions.list", { limit: 200 });
  assert.ok(listed.sessions.some((row) => row.key === key), "the new session is not listed");
  const deleted = await ask("sessions.delete", { key });
  valid("SessionsDeleteResult", deleted);
  const after = await ask("sessions.describe", { key });
  assert.equal(after.session, null);
});

const key = `agent:main:chat-${randomUUID()}`;
await check("chat.send: deltas, then final; all clients see the same; history has both", async () => {
  await ask("sessions.create", { key });
  const other = await connect();
  for (const side of [main, other]) {
    await side.client.request("sessions.subscribe", {});
    await side.client.request("sessions.messages.subscribe", { key });
  }
  const message = "hello from the published client: äöü 😀";
  const idempotencyKey = randomUUID();
  const sent = await ask("chat.send", { sessionKey: key, message, idempotencyKey });
  assert.equal(typeof sent.runId, "string");
  const { last, chat } = await ending(main, sent.runId);
  assert.equal(last.state, "final");
  for (const event of chat) valid("ChatEvent", event);
  const deltas = chat.filter((e) => e.state === "delta");
  assert.ok(deltas.length > 0, "no delta came");
  assert.equal(deltas.map((e) => e.deltaText).join(""), text(last.message));
  assert.ok(text(last.message).includes(message));
  const seqs = chat.map((e) => e.seq);
  assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b), "seq must grow");
  await ending(other, sent.runId);
  assert.deepEqual(other.of("chat", sent.runId), chat, "the two clients saw different events");
  const roles = () => main.of("session.message").filter((p) => p.sessionKey === key).map((p) => p.message.role);
  await until("session.message of both sides", () => (roles().includes("user") && roles().includes("assistant")) || undefined);
  const history = await ask("chat.history", { sessionKey: key, limit: 50 });
  assert.deepEqual(history.messages.map((m) => m.role), ["user", "assistant"]);
  assert.equal(text(history.messages[0]), message);
  assert.equal(text(history.messages[1]), text(last.message));
  await other.stop();
});

// Covers: F22.
await check("chat.send again with the same key: the same run, no second one", async () => {
  const params = { sessionKey: key, message: "only once", idempotencyKey: randomUUID() };
  const [first, second] = await Promise.all([ask("chat.send", params), ask("chat.send", params)]);
  assert.equal(first.runId, second.runId);
  await ending(main, first.runId);
  const third = await ask("chat.send", params);
  assert.equal(third.runId, first.runId);
  const history = await ask("chat.history", { sessionKey: key, limit: 50 });
  assert.equal(history.messages.filter((m) => m.role === "user" && text(m) === "only once").length, 1);
  await assert.rejects(ask("chat.send", { ...params, message: "something else" }));
});

await check("chat.abort stops a run half-way", async () => {
  const slow = `agent:slow:abort-${randomUUID()}`;
  await ask("sessions.create", { key: slow });
  await ask("sessions.messages.subscribe", { key: slow });
  const { runId } = await ask("chat.send", { sessionKey: slow, message: "count", idempotencyKey: randomUUID() });
  await until("two deltas", () => (main.of("chat", runId).filter((e) => e.state === "delta").length >= 2 ? true : undefined));
  const aborted = await ask("chat.abort", { sessionKey: slow, runId });
  assert.equal(aborted.aborted, true);
  assert.deepEqual(aborted.runIds, [runId]);
  const { last, chat } = await ending(main, runId);
  assert.equal(last.state, "aborted");
  for (const event of chat) valid("ChatEvent", event);
  const waited = await ask("agent.wait", { runId, timeoutMs: 10_000 });
  assert.notEqual(waited.status, "ok");
  const again = await ask("chat.abort", { sessionKey: slow, runId });
  assert.equal(again.aborted, false);
});

await check("agent: accepted, then the end, on one request", async () => {
  const accepted = [];
  const answer = await ask(
    "agent",
    { message: "two answers", agentId: "main", idempotencyKey: randomUUID() },
    { expectFinal: true, timeoutMs: 20_000, onAccepted: (payload) => accepted.push(payload) },
  );
  assert.equal(accepted.length, 1);
  assert.equal(accepted[0].status, "accepted");
  assert.equal(answer.status, "ok");
  assert.equal(answer.runId, accepted[0].runId);
  assert.ok(answer.result.payloads.some((p) => p.text.includes("two answers")));
  const waited = await ask("agent.wait", { runId: answer.runId, timeoutMs: 5_000 });
  assert.equal(waited.status, "ok");
});

// As `cron list|add|run --wait|runs|rm` of the published command line ask, with its checks of a page.
await check("cron: add, list, get, run, runs, update, remove, each as published", async () => {
  const definition = (job) => {
    const { effectiveAgentId, ...rest } = job;
    if (effectiveAgentId !== undefined) assert.equal(typeof effectiveAgentId, "string");
    valid("CronJob", rest);
  };
  const made = [];
  for (const job of [
    { schedule: { kind: "cron", expr: "0 3 * * *", tz: "UTC" }, sessionTarget: "isolated", payload: { kind: "agentTurn", message: "say hi" }, delivery: { mode: "none" } },
    { schedule: { kind: "every", everyMs: 3_600_000 }, sessionTarget: "main", payload: { kind: "systemEvent", text: "tick" } },
    { schedule: { kind: "at", at: new Date(Date.now() + 86_400_000).toISOString() }, sessionTarget: "main", payload: { kind: "systemEvent", text: "once" } },
  ]) {
    const added = await ask("cron.add", { name: `check ${job.schedule.kind}`, wakeMode: "next-heartbeat", ...job });
    valid("CronAddResult", added);
    made.push(added);
  }
  assert.equal(made[2].deleteAfterRun, true);
  const page = await ask("cron.list", { includeDisabled: false, limit: 200, offset: 0 });
  assert.equal(page.offset, 0);
  assert.ok(page.snapshotRevision.length > 0 && page.limit === 200 && page.hasMore === false && page.nextOffset === null);
  assert.equal(page.offset + page.jobs.length, page.total);
  for (const job of page.jobs) definition(job);
  assert.deepEqual(made.map((job) => page.jobs.some((row) => row.id === job.id)), [true, true, true]);
  const [{ id }] = made;
  const begun = await ask("cron.run", { id, mode: "force" });
  assert.ok(begun.ok && begun.enqueued && begun.runId.startsWith(`manual:${id}:`));
  const entry = await until("the run in the log", async () => (await ask("cron.runs", { id, runId: begun.runId })).entries[0]);
  valid("CronRunLogEntry", entry);
  assert.equal(entry.status, "ok");
  assert.ok(entry.summary.includes("say hi"));
  const log = await ask("cron.runs", { id });
  assert.deepEqual([log.total, log.offset, log.hasMore, log.nextOffset], [1, 0, false, null]);
  definition(await ask("cron.get", { id }));
  const changed = await ask("cron.update", { id, patch: { enabled: false } });
  definition(changed);
  assert.equal(changed.enabled, false);
  const status = await ask("cron.status");
  assert.ok(status.enabled === true && status.storage === "sqlite" && status.jobs >= 3);
  for (const job of made) assert.deepEqual(await ask("cron.remove", { id: job.id }), { ok: true, removed: true });
  await assert.rejects(ask("cron.get", { id }), (e) => e.details?.code === "CRON_JOB_NOT_FOUND" || /not found/.test(e.message));
  const told = main.of("cron").filter((e) => e.jobId === id).map((e) => e.action);
  assert.deepEqual(told, ["added", "started", "finished", "updated", "removed"]);
  await assert.rejects(ask("cron.add", { name: "x", schedule: { kind: "on-exit", command: "true" }, sessionTarget: "isolated", wakeMode: "now", payload: { kind: "agentTurn", message: "x" } }));
});

await check("system event, wake and heartbeats", async () => {
  assert.deepEqual(await ask("system-event", { text: "check event" }), { ok: true });
  assert.deepEqual(await ask("wake", { mode: "now", text: "check wake" }), { ok: true });
  const last = await until("a heartbeat", async () => (await ask("last-heartbeat")) ?? undefined);
  assert.ok(["sent", "ok-token", "skipped", "failed"].includes(last.status));
  assert.deepEqual(await ask("set-heartbeats", { enabled: true }), { ok: true, enabled: true });
});

await check("unknown methods and bad params are refused with the known codes", async () => {
  await assert.rejects(ask("no.such.method"), (e) => e.gatewayCode === "INVALID_REQUEST" && /unknown method: no\.such\.method/.test(e.message));
  await assert.rejects(ask("chat.send", { sessionKey: key }), (e) => e.gatewayCode === "INVALID_REQUEST");
});

// Covers: A1.
await check("a wrong token is refused at connect", async () => {
  let seen;
  const client = new GatewayClient({
    url, token: "f".repeat(64), minProtocol: 4, maxProtocol: 4,
    onHelloOk: () => { seen = new Error("let in"); },
    onConnectError: (error) => { seen ??= error; },
  });
  client.start();
  const error = await until("refusal", () => seen);
  client.stop();
  assert.notEqual(error.message, "let in");
  assert.match(String(error.message), /token|unauthor|auth/i);
});

await check("every frame on the wire is one of the published kinds", async () => {
  const socket = new WebSocket(url);
  const frames = [];
  socket.on("message", (data) => frames.push(JSON.parse(data.toString())));
  await until("challenge", () => frames.find((f) => f.event === "connect.challenge"));
  const send = (id, method, params) => socket.send(JSON.stringify({ type: "req", id, method, params }));
  const answer = (id) => until(`answer ${id}`, () => frames.find((f) => f.type === "res" && f.id === id));
  send("1", "connect", {
    minProtocol: 4, maxProtocol: 4, role: "operator", scopes: ["operator.admin"],
    client: { id: "gateway-client", version: "1.0.0", platform: "linux", mode: "backend" }, auth: { token },
  });
  assert.equal((await answer("1")).ok, true);
  send("2", "sessions.subscribe", {});
  send("3", "sessions.messages.subscribe", { key });
  await answer("3");
  send("4", "chat.send", { sessionKey: key, message: "frames", idempotencyKey: randomUUID() });
  send("5", "no.such.method", {});
  await answer("5");
  await until("final", () => frames.find((f) => f.event === "chat" && f.payload.state === "final"));
  socket.close();
  for (const frame of frames) valid("GatewayFrame", frame);
  const seqs = frames.filter((f) => f.type === "event" && f.seq !== undefined).map((f) => f.seq);
  assert.deepEqual(seqs, seqs.map((_, i) => seqs[0] + i), "seq must have no gap");
});

await check("no gap was seen on the long connection", async () => {
  assert.deepEqual(main.gaps, []);
});

await main.stop();
finish();
