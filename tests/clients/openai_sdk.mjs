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
