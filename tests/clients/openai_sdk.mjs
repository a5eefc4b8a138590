// The official OpenAI SDK for JavaScript against `/v1`.

import OpenAI from "openai";
import { assert, check, env, finish } from "./checks.mjs";

const baseURL = `${env("URL")}/v1`;
const client = new OpenAI({ baseURL, apiKey: env("TOKEN"), maxRetries: 0 });
const messages = [{ role: "user", content: "hello SDK äöü 😀" }];
let model;

await check("models.list has a model", async () => {
  const models = [];
  for await (const row of client.models.list()) models.push(row.id);
  assert.ok(models.length > 0);
  model = models[0];
});

await check("chat.completions.create, whole", async () => {
  const answer = await client.chat.completions.create({ model, messages });
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(answer.choices[0].message.content.includes(messages[0].content));
  assert.ok(answer.usage.total_tokens >= answer.usage.completion_tokens);
});

await check("chat.completions.create, streamed, with usage", async () => {
  const stream = await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let chunks = 0;
  let finish = null;
  let usage = null;
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    chunks += 1;
    text += chunk.choices[0]?.delta?.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.ok(chunks > 1, "it came in one piece");
  assert.equal(finish, "stop");
  assert.ok(text.includes(messages[0].content));
  assert.ok(usage && usage.total_tokens > 0);
});

await check("the SDK's stream helper sees the same text", async () => {
  const stream = client.chat.completions.stream({ model, messages });
  const whole = await stream.finalContent();
  assert.ok(whole.includes(messages[0].content));
});

await check("a stream that the caller ends early frees the connection", async () => {
  const stream = await client.chat.completions.create({ model, messages, stream: true });
  for await (const _ of stream) break;
  const answer = await client.chat.completions.create({ model, messages });
  assert.ok(answer.choices[0].message.content);
});

await check("responses.create, whole, asked for again, continued, deleted", async () => {
  const input = messages[0].content;
  const first = await client.responses.create({ model, input, instructions: "be brief", metadata: { a: "b" } });
  assert.equal(first.status, "completed");
  assert.ok(first.output_text.includes(input));
  assert.deepEqual(first.metadata, { a: "b" });
  assert.ok(first.usage.total_tokens >= first.usage.output_tokens);
  const again = await client.responses.retrieve(first.id);
  assert.equal(again.output_text, first.output_text);
  const second = await client.responses.create({ model, input: [{ role: "user", content: "and then" }], previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  assert.ok(second.output_text.includes("and then"));
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
  await assert.rejects(client.responses.create({ model, input, previous_response_id: first.id }), OpenAI.BadRequestError);
});

await check("responses.create, streamed", async () => {
  const input = messages[0].content;
  const stream = await client.responses.create({ model, input, stream: true });
  const kinds = [];
  let text = "";
  let number = 0;
  for await (const event of stream) {
    assert.equal(event.sequence_number, number);
    number += 1;
    kinds.push(event.type);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.deepEqual(kinds.slice(0, 2), ["response.created", "response.in_progress"]);
  assert.equal(kinds.at(-1), "response.completed");
  assert.ok(text.includes(input));
  const helped = await client.responses.stream({ model, input }).finalResponse();
  assert.ok(helped.output_text.includes(input));
});

await check("responses that cannot be made", async () => {
  const input = messages[0].content;
  const tool = { type: "function", name: "f", parameters: {}, strict: false };
  await assert.rejects(client.responses.create({ model, input, tools: [tool] }), OpenAI.BadRequestError);
  await assert.rejects(client.responses.create({ model, input, background: true }), OpenAI.BadRequestError);
});

await check("embeddings.create", async () => {
  const answer = await client.embeddings.create({ model: "openclaw/slow", input: ["a", "bcd"] });
  assert.deepEqual(answer.data.map((row) => row.embedding), [[1, 0.5], [3, 0.5]]);
  assert.equal(answer.usage.total_tokens, 4);
  await assert.rejects(client.embeddings.create({ model, input: "a" }), OpenAI.BadRequestError);
});

// Covers: A1, A17.
await check("a wrong key is a 401 that the SDK knows", async () => {
  const wrong = new OpenAI({ baseURL, apiKey: "f".repeat(64), maxRetries: 0 });
  await assert.rejects(wrong.chat.completions.create({ model, messages }), OpenAI.AuthenticationError);
});

await check("an unknown model and an empty list are errors that the SDK knows", async () => {
  await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages }), OpenAI.APIError);
  await assert.rejects(client.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);
});

finish();
