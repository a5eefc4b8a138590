// OpenClaw's published client against our gateway over TLS: the pin decides, and nothing else.

import tls from "node:tls";
import { GatewayClient } from "@openclaw/gateway-client";
import { assert, check, env, finish, until } from "./checks.mjs";

const url = env("URL").replace(/^http/, "ws");
const token = env("TOKEN");
const pin = env("TLS_FINGERPRINT");

/** Connects; the hello, or the error that came first. */
async function outcome(options) {
  let done;
  const client = new GatewayClient({
    url, token, minProtocol: 4, maxProtocol: 4,
    onHelloOk: (hello) => { done ??= { hello, client }; },
    onConnectError: (error) => { done ??= { error, client }; },
    ...options,
  });
  try {
    client.start();
  } catch (error) {
    done = { error, client };
  }
  return until("outcome", () => done);
}

const colons = pin.toUpperCase().match(/../g).join(":");
for (const form of [pin, colons, `sha256:${pin}`, pin.toUpperCase()]) {
  await check(`the right pin, written ${form.slice(0, 12)}…`, async () => {
    const { hello, error, client } = await outcome({ tlsFingerprint: form });
    assert.ok(hello, String(error));
    assert.equal(hello.protocol, 4);
    // Announced in hello-ok, so that a client learns of the next certificate in time.
    assert.equal(hello.snapshot.health.tls.fingerprint, pin);
    const health = await client.request("health", {});
    assert.equal(health.ok, true);
    client.stop();
  });
}

// Covers: N16.
await check("a wrong pin: refused, nothing said", async () => {
  const { hello, error, client } = await outcome({ tlsFingerprint: pin.replace(/^./, (c) => (c === "0" ? "1" : "0")) });
  client.stop();
  assert.equal(hello, undefined);
  assert.match(String(error.message), /fingerprint/i);
});

// Covers: N16.
await check("no pin: our own certificate is not trusted", async () => {
  const { hello, error, client } = await outcome({});
  client.stop();
  assert.equal(hello, undefined);
  assert.match(String(error.message), /self.signed|certificate|verify/i);
});

await check("the certificate is for localhost and 127.0.0.1", async () => {
  const { hostname, port } = new URL(url);
  const socket = tls.connect({ host: hostname, port: Number(port), servername: "localhost", rejectUnauthorized: false, ALPNProtocols: ["h2", "http/1.1"] });
  await new Promise((resolve, reject) => { socket.once("secureConnect", resolve); socket.once("error", reject); });
  const cert = socket.getPeerCertificate();
  assert.equal(cert.fingerprint256.replaceAll(":", "").toLowerCase(), pin);
  assert.equal(tls.checkServerIdentity("localhost", cert), undefined);
  assert.equal(tls.checkServerIdentity("127.0.0.1", cert), undefined);
  assert.equal(socket.alpnProtocol, "http/1.1");
  assert.equal(socket.getProtocol(), "TLSv1.3");
  socket.destroy();
});

finish();
