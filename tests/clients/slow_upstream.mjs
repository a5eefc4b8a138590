// A double of an OpenAI-compatible model server that answers slowly: 200 words, one each 30 ms.
// Embeddings: the length of each text, and a half; as floats or in base64, as they are asked for.
// Prints its port on the first line. Only for runs that are to be stopped half-way, or to see deltas come one by one.

import http from "node:http";

const words = Array.from({ length: 200 }, (_, i) => `word${i} `);

const embeddings = (asked) => {
  const texts = [asked.input].flat();
  const row = (text) => {
    const floats = new Float32Array([text.length, 0.5]);
    return asked.encoding_format === "base64" ? Buffer.from(floats.buffer).toString("base64") : [...floats];
  };
  const tokens = texts.join("").length;
  return {
    object: "list",
    model: asked.model,
    data: texts.map((text, index) => ({ object: "embedding", index, embedding: row(text) })),
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
};

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    if (request.method !== "POST" || !/\/(chat\/completions|embeddings)$/.test(request.url)) {
      response.writeHead(404, { "content-type": "application/json" });
      response.end('{"error":{"message":"no such path","type":"invalid_request_error"}}');
      return;
    }
    let asked = {};
    try {
      asked = JSON.parse(Buffer.concat(chunks).toString());
    } catch {
      response.writeHead(400).end();
      return;
    }
    if (request.url.endsWith("/embeddings")) {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify(embeddings(asked)));
      return;
    }
    const base = { id: "chatcmpl-double", object: "chat.completion.chunk", created: 1, model: asked.model ?? "double" };
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (choices, more = {}) => response.write(`data: ${JSON.stringify({ ...base, ...more, choices })}\n\n`);
    send([{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }]);
    let at = 0;
    const timer = setInterval(() => {
      if (at < words.length) {
        send([{ index: 0, delta: { content: words[at] }, finish_reason: null }]);
        at += 1;
        return;
      }
      clearInterval(timer);
      send([{ index: 0, delta: {}, finish_reason: "stop" }]);
      send([], { usage: { prompt_tokens: 3, completion_tokens: words.length, total_tokens: words.length + 3 } });
      response.end("data: [DONE]\n\n");
    }, 30);
    response.on("close", () => clearInterval(timer));
  });
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
