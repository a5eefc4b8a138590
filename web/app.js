// The built-in page: status, a chat, the next step. It talks JSON-RPC with the gateway that served it and with nobody else:
// no address is ever taken from anywhere but the address of the page itself, and nothing but the page's own field gives it the token.
"use strict";

const $ = (id) => document.getElementById(id);
const KEY = "gateway.token";
const RETRY_MS = [500, 1000, 2000, 5000, 10000];

/** One socket to the gateway: calls with answers, and events. */
class Rpc {
  constructor(token, onEvent, onClose) {
    const here = new URL("rpc", document.baseURI);
    here.protocol = here.protocol === "https:" ? "wss:" : "ws:";
    // A page cannot set headers on a WebSocket; the token travels as an offered subprotocol, which is a header too. Without one
    // (the tailnet vouches for who is there) nothing is offered.
    const bytes = new TextEncoder().encode(token ?? "");
    const encoded = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    const offered = token === null ? ["jsonrpc"] : ["jsonrpc", "gateway.bearer." + encoded];
    this.waiting = new Map();
    this.next = 1;
    this.socket = new WebSocket(here, offered);
    this.opened = new Promise((resolve, reject) => {
      this.socket.addEventListener("open", resolve);
      this.socket.addEventListener("close", reject);
    });
    this.opened.catch(() => {});
    this.socket.addEventListener("message", (message) => this.take(JSON.parse(message.data), onEvent));
    this.socket.addEventListener("close", (close) => {
      for (const { reject } of this.waiting.values()) reject(new Error("the connection ended"));
      this.waiting.clear();
      onClose(close);
    });
  }

  take(message, onEvent) {
    if (message.method === "event") return onEvent(message.params.event, message.params.payload);
    const call = this.waiting.get(message.id);
    if (!call) return undefined;
    this.waiting.delete(message.id);
    return message.error ? call.reject(new Error(message.error.message)) : call.resolve(message.result);
  }

  call(method, params) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  close() {
    this.socket.close(1000);
  }
}

const view = {
  state(word, text) {
    $("state").dataset.state = word;
    $("state").textContent = text;
  },
  signedIn(yes) {
    $("sign-in").hidden = yes;
    for (const id of ["status", "chat", "sign-out"]) $(id).hidden = !yes;
  },
  error(text) {
    $("sign-in-error").hidden = !text;
    $("sign-in-error").textContent = text || "";
  },
  list(entries) {
    $("status-list").replaceChildren(
      ...entries.flatMap(([name, value]) => {
        const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
        dt.textContent = name;
        dd.textContent = value;
        return [dt, dd];
      }),
    );
  },
  message(role, text, state) {
    const li = document.createElement("li");
    li.dataset.role = role;
    if (state) li.dataset.state = state;
    li.textContent = text;
    $("messages").append(li);
    li.scrollIntoView({ block: "nearest" });
    return li;
  },
  running(run) {
    $("stop").hidden = !run;
    $("send").disabled = Boolean(run);
  },
};

const textOf = (message) =>
  typeof message?.content === "string"
    ? message.content
    : (message?.content ?? []).filter((block) => block.type === "text").map((block) => block.text).join("");

const app = {
  rpc: null,
  token: null,
  /** Whether to go on when a connection is lost. */
  wanted: false,
  key: null,
  runs: new Map(),
  tries: 0,
  /** Whether the history stands: what is said before that would be wiped by it. */
  ready: false,

  async connect(token, fresh) {
    this.ready = false;
    $("send").disabled = true;
    view.state("waiting", "Connecting …");
    let opened = false;
    const rpc = new Rpc(token, (name, payload) => this.event(name, payload), () => opened && this.lost(rpc));
    try {
      await rpc.opened;
    } catch {
      if (fresh) {
        // Nobody gave a token: it was only tried whether one is needed.
        if (token === null) return void view.state("signed-out", "Not connected");
        view.state("failed", "Not connected");
        view.error("The gateway did not take this token. Next step: copy it again from the file that `gateway serve` names.");
        sessionStorage.removeItem(KEY);
        view.signedIn(false);
      } else {
        this.later();
      }
      return;
    }
    opened = true;
    this.rpc = rpc;
    this.token = token;
    this.wanted = true;
    this.tries = 0;
    if (token !== null) sessionStorage.setItem(KEY, token);
    view.error("");
    view.signedIn(true);
    view.state("open", "Connected");
    await Promise.all([this.refresh(), this.openChat()]).catch((error) => view.state("failed", error.message));
  },

  lost(rpc) {
    if (rpc !== this.rpc) return;
    this.rpc = null;
    this.later();
  },

  later() {
    if (!this.wanted) return;
    const wait = RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)];
    view.state("waiting", "The gateway is not reachable; trying again");
    setTimeout(() => this.wanted && !this.rpc && this.connect(this.token, false), wait);
  },

  async refresh() {
    const [health, channels] = await Promise.all([this.rpc.call("health", {}), this.rpc.call("channels.status", {}).catch(() => null)]);
    const accounts = Object.entries(channels?.channelAccounts ?? {}).flatMap(([kind, list]) => list.map((account) => [kind, account]));
    const entries = [
      ["Health", health.ok ? "ok" : "degraded"],
      ["Agents", (health.agents ?? []).map((agent) => agent.agentId).join(", ") || "none"],
      ["Sessions", String(health.sessions?.count ?? 0)],
    ];
    for (const [kind, account] of accounts) {
      entries.push([`Channel ${kind}/${account.accountId}`, account.running ? "running" : account.lastError || "not running"]);
    }
    view.list(entries);
    $("agent-name").textContent = health.defaultAgentId ?? "the agent";
    $("next-step").textContent = accounts.length
      ? "Say something below, or write to the agent through a channel; approve its first sender with `gateway pairing approve`."
      : "Say something below. To connect a messenger, run `gateway channels add telegram`.";
  },

  async openChat() {
    await this.rpc.call("sessions.messages.subscribe", { key: "main" }).then((answer) => (this.key = answer?.key ?? null));
    const history = await this.rpc.call("chat.history", { sessionKey: "main", limit: 50 });
    $("messages").replaceChildren();
    for (const message of history.messages ?? []) {
      const text = textOf(message);
      if (text && (message.role === "user" || message.role === "assistant")) view.message(message.role, text);
    }
    for (const run of this.runs.keys()) this.runs.delete(run);
    this.ready = true;
    view.running(null);
  },

  async send(text) {
    const run = crypto.randomUUID();
    view.message("user", text);
    const bubble = view.message("assistant", "", "running");
    this.runs.set(run, bubble);
    view.running(run);
    $("stop").onclick = () => this.rpc?.call("chat.abort", { sessionKey: "main", runId: run }).catch(() => {});
    try {
      await this.rpc.call("chat.send", { sessionKey: "main", message: text, idempotencyKey: run });
    } catch (error) {
      this.end(run, bubble, "error", error.message);
    }
  },

  event(name, payload) {
    if (name === "health" || name === "sessions.changed") return void this.refresh().catch(() => {});
    if (name !== "chat") return undefined;
    const bubble = this.runs.get(payload.runId);
    if (!bubble) return undefined;
    const text = textOf(payload.message);
    switch (payload.state) {
      case "delta":
        bubble.textContent = text || bubble.textContent + (payload.deltaText ?? "");
        bubble.scrollIntoView({ block: "nearest" });
        return undefined;
      case "final":
        return this.end(payload.runId, bubble, "done", text || bubble.textContent);
      case "aborted":
        return this.end(payload.runId, bubble, "aborted", (text || bubble.textContent) + " (stopped)");
      case "error":
        return this.end(payload.runId, bubble, "error", payload.errorMessage || "the run failed");
      default:
        return undefined;
    }
  },

  end(run, bubble, state, text) {
    bubble.dataset.state = state;
    bubble.textContent = text;
    this.runs.delete(run);
    if (this.runs.size === 0) view.running(null);
  },

  signOut() {
    const rpc = this.rpc;
    this.rpc = null;
    this.token = null;
    this.wanted = false;
    sessionStorage.removeItem(KEY);
    rpc?.close();
    $("messages").replaceChildren();
    $("token").value = "";
    view.signedIn(false);
    view.state("signed-out", "Not connected");
  },
};

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  if (token) app.connect(token, true);
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("draft").value.trim();
  if (!text || !app.rpc || !app.ready) return;
  $("draft").value = "";
  app.send(text);
});
$("draft").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("sign-out").addEventListener("click", () => app.signOut());

const kept = sessionStorage.getItem(KEY);
if (kept) app.connect(kept, true);
// By a name in a tailnet the gateway may know who is there.
else if (location.hostname.endsWith(".ts.net")) app.connect(null, true);
