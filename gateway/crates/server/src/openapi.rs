//! The OpenAPI description of every address that the listener answers over HTTP: `docs/openapi.json`, and `GET /openapi.json`.
//!
//! [`OPERATIONS`] is the list; a test holds it against the router, so that neither has an address more than the other. Schemas
//! name what is looked at. Members that are not named are ignored, as these APIs are used to.

use serde_json::{Map, Value, json};

use crate::limits;

/// One method of one address.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    doc: &'static str,
    /// Needs the bearer of the tenant or an API key; `false`: open, or with a credential of its own kind.
    bearer: bool,
    body: fn() -> Option<Value>,
    query: fn() -> Vec<Value>,
    /// Good answers: status, media types with their schemas.
    good: fn() -> Value,
    /// Names of the common errors, by status.
    bad: &'static [u16],
}

fn no_body() -> Option<Value> {
    None
}

fn no_query() -> Vec<Value> {
    Vec::new()
}

fn ok(schema: Value) -> Value {
    json!({ "200": { "description": "Done.", "content": { "application/json": { "schema": schema } } } })
}

fn ok_or_events(schema: Value) -> Value {
    json!({ "200": { "description": "Done, or a stream of events.", "content": {
        "application/json": { "schema": schema },
        "text/event-stream": { "schema": { "type": "string" } },
    } } })
}

fn page_of(kind: &'static str) -> Value {
    json!({ "200": { "description": "A file of the built-in page.", "content": { kind: { "schema": { "type": "string" } } } } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn nullable(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

fn probe(name: &str) -> Value {
    object(&[name], json!({ name: { "type": "boolean" } }))
}

fn numbers() -> Value {
    json!({ "200": { "description": "The text format of Prometheus.", "content": { "text/plain": { "schema": { "type": "string" } } } } })
}

fn ready() -> Value {
    let mut good = ok(probe("ready"));
    good["503"] = json!({ "description": "Not ready.", "content": { "application/json": { "schema": probe("ready") } } });
    good
}

fn completion_request() -> Option<Value> {
    let part = object(
        &["type", "text"],
        json!({ "type": { "const": "text" }, "text": { "type": "string" } }),
    );
    let message = object(
        &["role"],
        json!({
            "role": { "enum": ["system", "developer", "user", "assistant"] },
            "content": { "anyOf": [{ "type": "string" }, { "type": "null" }, { "type": "array", "items": part }] },
        }),
    );
    Some(object(
        &["model", "messages"],
        json!({
            "model": { "type": "string", "description": "An agent: `openclaw` or `openclaw/<agent>`." },
            "messages": { "type": "array", "minItems": 1, "maxItems": limits::MAX_OPENAI_MESSAGES, "items": message,
                "description": "The last one must be of the user." },
            "stream": nullable("boolean"),
            "stream_options": { "anyOf": [{ "type": "null" }, { "type": "object", "properties": { "include_usage": nullable("boolean") } }] },
            "user": { "type": ["string", "null"], "description": "Names a session that lasts." },
        }),
    ))
}

fn response_request() -> Option<Value> {
    let part = object(
        &["type", "text"],
        json!({ "type": { "enum": ["input_text", "output_text", "text"] }, "text": { "type": "string" } }),
    );
    let item = object(
        &["role", "content"],
        json!({
            "type": { "enum": ["message", null] },
            "role": { "enum": ["system", "developer", "user", "assistant"] },
            "content": { "anyOf": [{ "type": "string" }, { "type": "array", "items": part }] },
        }),
    );
    Some(object(
        &["model", "input"],
        json!({
            "model": { "type": "string", "description": "An agent: `openclaw` or `openclaw/<agent>`." },
            "input": { "description": "A text, or items of which the last one must be of the user.", "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "minItems": 1, "maxItems": limits::MAX_OPENAI_MESSAGES, "items": item },
            ] },
            "instructions": nullable("string"),
            "previous_response_id": { "type": ["string", "null"], "description": "A stored response that this one continues." },
            "stream": nullable("boolean"),
            "store": { "type": ["boolean", "null"], "default": true, "description": "Whether it can be asked for again and continued." },
            "user": { "type": ["string", "null"], "description": "Names a session that lasts." },
            "metadata": { "anyOf": [{ "type": "null" }, {
                "type": "object", "maxProperties": limits::MAX_METADATA_ENTRIES,
                "propertyNames": { "maxLength": limits::MAX_METADATA_NAME_CHARS },
                "additionalProperties": { "type": "string", "maxLength": limits::MAX_METADATA_VALUE_CHARS },
            }] },
        }),
    ))
}

fn embedding_request() -> Option<Value> {
    let token = json!({ "type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32 });
    let text = json!({ "type": "string", "minLength": 1 });
    let tokens = json!({ "type": "array", "minItems": 1, "items": token });
    let many = |items: &Value| json!({ "type": "array", "minItems": 1, "maxItems": limits::MAX_EMBEDDING_INPUTS, "items": items });
    Some(object(
        &["model", "input"],
        json!({
            "model": { "type": "string", "description": "An agent, or the `embeddingModel` of one." },
            "input": { "anyOf": [text, many(&text), tokens, many(&tokens)] },
            "encoding_format": { "enum": ["float", "base64", null] },
            "dimensions": { "type": ["integer", "null"], "minimum": 1, "maximum": 65_536 },
            "user": nullable("string"),
        }),
    ))
}

fn tool_request() -> Option<Value> {
    Some(object(
        &["tool"],
        json!({
            "tool": { "type": "string", "pattern": "^[A-Za-z0-9_-]+$" },
            "action": { "type": ["string", "null"], "description": "Put into the arguments where the tool takes it." },
            "args": nullable("object"),
            "sessionKey": { "type": ["string", "null"], "description": "Session for which it is called (default: the main session)." },
            "dryRun": { "enum": [false, null] },
        }),
    ))
}

fn rpc_request() -> Option<Value> {
    let call = object(
        &["jsonrpc", "method"],
        json!({
            "jsonrpc": { "const": "2.0" },
            "method": { "type": "string" },
            "params": { "type": ["object", "null"] },
            "id": { "type": ["string", "integer", "null"] },
        }),
    );
    Some(
        json!({ "description": "A JSON-RPC 2.0 request or a batch; the methods are described by openrpc.json. Faults of the text are told in the answer, with status 200.",
        "anyOf": [call, { "type": "array" }, {}] }),
    )
}

fn rpc_answer() -> Value {
    let mut good = ok(
        json!({ "anyOf": [{ "type": "object", "required": ["jsonrpc"] }, { "type": "array" }] }),
    );
    good["204"] = json!({ "description": "Only notifications: there is nothing to say." });
    good
}

fn model() -> Value {
    object(
        &["id", "object", "created", "owned_by"],
        json!({ "id": { "type": "string" }, "object": { "const": "model" }, "created": { "type": "integer" }, "owned_by": { "type": "string" } }),
    )
}

fn completion() -> Value {
    object(
        &["id", "object", "created", "model", "choices", "usage"],
        json!({
            "id": { "type": "string" }, "object": { "const": "chat.completion" }, "created": { "type": "integer" },
            "model": { "type": "string" }, "choices": { "type": "array", "minItems": 1, "items": { "type": "object" } },
            "usage": { "type": "object" },
        }),
    )
}

fn response() -> Value {
    object(
        &[
            "id",
            "object",
            "created_at",
            "status",
            "model",
            "output",
            "usage",
            "metadata",
            "previous_response_id",
        ],
        json!({
            "id": { "type": "string", "pattern": "^resp_" }, "object": { "const": "response" },
            "created_at": { "type": "integer" },
            "status": { "enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"] },
            "model": { "type": "string" }, "output": { "type": "array", "items": { "type": "object" } },
            "usage": nullable("object"), "metadata": { "type": "object" }, "previous_response_id": nullable("string"),
            "error": nullable("object"), "incomplete_details": nullable("object"), "instructions": nullable("string"),
        }),
    )
}

fn schemas() -> Value {
    json!({
        "Error": object(&["error"], json!({ "error": object(&["message", "type"], json!({
            "message": { "type": "string" }, "type": { "type": "string" },
            "code": nullable("string"), "param": nullable("string"),
        })) })),
        "Model": model(),
        "Models": object(&["object", "data"], json!({ "object": { "const": "list" }, "data": { "type": "array", "items": reference("Model") } })),
        "ChatCompletion": completion(),
        "Response": response(),
        "DeletedResponse": object(&["id", "object", "deleted"], json!({
            "id": { "type": "string" }, "object": { "const": "response" }, "deleted": { "const": true },
        })),
        "Embeddings": object(&["data"], json!({ "data": { "type": "array" }, "model": { "type": "string" }, "usage": { "type": "object" } })),
        "ToolResult": object(&["ok", "result"], json!({ "ok": { "const": true }, "result": object(&["content"], json!({
            "content": { "type": "array", "items": object(&["type", "text"], json!({ "type": { "const": "text" }, "text": { "type": "string" } })) },
        })) })),
        "History": object(&["sessionKey", "items", "messages", "hasMore"], json!({
            "sessionKey": { "type": "string" }, "hasMore": { "type": "boolean" }, "nextCursor": { "type": "string" },
            "items": { "type": "array", "items": { "type": "object" } }, "messages": { "type": "array", "items": { "type": "object" } },
        })),
    })
}

fn history_query() -> Vec<Value> {
    let at = |name: &str, doc: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "description": doc, "schema": schema });
    vec![
        at(
            "limit",
            "Most messages (default 200).",
            json!({ "type": "integer", "minimum": 1, "maximum": 1_000 }),
        ),
        at(
            "cursor",
            "The `nextCursor` of a page: the messages before it.",
            json!({ "type": "string", "pattern": "^seq:[1-9][0-9]{0,15}$" }),
        ),
        at(
            "includeTools",
            "Results of tools too.",
            json!({ "enum": ["1", "0", "true", "false"] }),
        ),
    ]
}

/// Everything that is answered. Webhooks and hooks are described where they are set up: their addresses and bodies come from
/// the configuration.
const OPERATIONS: &[Operation] = &[
    Operation {
        method: "get",
        path: "/",
        id: "page",
        tag: "page",
        doc: "The built-in page.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: || page_of("text/html"),
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/app.js",
        id: "pageScript",
        tag: "page",
        doc: "Its script.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: || page_of("text/javascript"),
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/style.css",
        id: "pageStyle",
        tag: "page",
        doc: "Its style.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: || page_of("text/css"),
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/healthz",
        id: "live",
        tag: "probes",
        doc: "Whether the process answers.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: || ok(probe("ok")),
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/readyz",
        id: "ready",
        tag: "probes",
        doc: "Whether requests are welcome.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: ready,
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/health",
        id: "liveToo",
        tag: "probes",
        doc: "Whether the process answers: the short name of `/healthz`.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: || ok(probe("ok")),
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/ready",
        id: "readyToo",
        tag: "probes",
        doc: "Whether requests are welcome: the short name of `/readyz`.",
        bearer: false,
        body: no_body,
        query: no_query,
        good: ready,
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/metrics",
        id: "metrics",
        tag: "probes",
        doc: "Numbers for Prometheus, of the tenant; with the token of `main` of the process and all tenants.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: numbers,
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        id: "describe",
        tag: "gateway",
        doc: "This description.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: || ok(json!({ "type": "object" })),
        bad: &[],
    },
    Operation {
        method: "post",
        path: "/rpc",
        id: "rpc",
        tag: "gateway",
        doc: "JSON-RPC 2.0 on every method of the gateway.",
        bearer: true,
        body: rpc_request,
        query: no_query,
        good: rpc_answer,
        bad: &[413, 415],
    },
    Operation {
        method: "get",
        path: "/v1/models",
        id: "listModels",
        tag: "openai",
        doc: "The agents as models.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: || ok(reference("Models")),
        bad: &[],
    },
    Operation {
        method: "get",
        path: "/v1/models/{model}",
        id: "getModel",
        tag: "openai",
        doc: "One of them.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: || ok(reference("Model")),
        bad: &[404],
    },
    Operation {
        method: "post",
        path: "/v1/chat/completions",
        id: "createChatCompletion",
        tag: "openai",
        doc: "Have an agent answer a conversation.",
        bearer: true,
        body: completion_request,
        query: no_query,
        good: || ok_or_events(reference("ChatCompletion")),
        bad: &[404, 409, 413, 415, 502, 503, 504],
    },
    Operation {
        method: "post",
        path: "/v1/responses",
        id: "createResponse",
        tag: "openai",
        doc: "Have an agent answer, so that it can be continued.",
        bearer: true,
        body: response_request,
        query: no_query,
        good: || ok_or_events(reference("Response")),
        bad: &[404, 409, 413, 415, 502, 503, 504],
    },
    Operation {
        method: "get",
        path: "/v1/responses/{response}",
        id: "getResponse",
        tag: "openai",
        doc: "A stored response, as it is now.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: || ok(reference("Response")),
        bad: &[404],
    },
    Operation {
        method: "delete",
        path: "/v1/responses/{response}",
        id: "deleteResponse",
        tag: "openai",
        doc: "Forget a stored response, and stop it if it is not over.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: || ok(reference("DeletedResponse")),
        bad: &[404, 405],
    },
    Operation {
        method: "post",
        path: "/v1/responses/{response}/cancel",
        id: "cancelResponse",
        tag: "openai",
        doc: "Stop a stored response that is not over.",
        bearer: true,
        body: no_body,
        query: no_query,
        good: || ok(reference("Response")),
        bad: &[404],
    },
    Operation {
        method: "post",
        path: "/v1/embeddings",
        id: "createEmbeddings",
        tag: "openai",
        doc: "Embeddings, made by the server of an agent.",
        bearer: true,
        body: embedding_request,
        query: no_query,
        good: || ok(reference("Embeddings")),
        bad: &[404, 413, 415, 502, 503, 504],
    },
    Operation {
        method: "post",
        path: "/tools/invoke",
        id: "invokeTool",
        tag: "gateway",
        doc: "Call a tool of an agent.",
        bearer: true,
        body: tool_request,
        query: no_query,
        good: || ok(reference("ToolResult")),
        bad: &[404, 413, 415, 503],
    },
    Operation {
        method: "get",
        path: "/sessions/{key}/history",
        id: "sessionHistory",
        tag: "gateway",
        doc: "Messages of a session by pages; with `Accept: text/event-stream` the newest page and what comes.",
        bearer: true,
        body: no_body,
        query: history_query,
        good: || ok_or_events(reference("History")),
        bad: &[404],
    },
];

/// Value of `Allow` for an address: what it answers, or what is answered at all where nothing is.
pub(crate) fn allowed(path: &str) -> String {
    let here = |op: &&Operation| {
        let (mut asked, mut known) = (path.split('/'), op.path.split('/'));
        loop {
            match (asked.next(), known.next()) {
                (None, None) => return true,
                (Some(part), Some(name)) if part == name || name.starts_with('{') => {}
                _ => return false,
            }
        }
    };
    let mut methods: Vec<String> = OPERATIONS
        .iter()
        .filter(here)
        .map(|op| op.method.to_ascii_uppercase())
        .collect();
    if methods.is_empty() {
        return "GET, HEAD, POST".to_owned();
    }
    if methods.iter().any(|m| m == "GET") {
        methods.push("HEAD".to_owned());
    }
    methods.join(", ")
}

fn describe(op: &Operation) -> Value {
    let mut parameters: Vec<Value> = op
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    parameters.extend((op.query)());
    let mut responses = (op.good)();
    // Any request can be refused for its form before anything else.
    let own: &[u16] = if op.bearer {
        &[400, 401, 403, 429]
    } else {
        &[400]
    };
    for status in own.iter().chain(op.bad) {
        if responses.get(status.to_string()).is_none() {
            responses[status.to_string()] = json!({ "$ref": "#/components/responses/Error" });
        }
    }
    let mut out = json!({
        "operationId": op.id, "tags": [op.tag], "summary": op.doc, "parameters": parameters, "responses": responses,
        "security": if op.bearer { json!([{ "bearer": [] }]) } else { json!([]) },
    });
    if let Some(schema) = (op.body)() {
        out["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    out
}

/// The description. The same for every tenant; below `/t/<tenant>` the addresses are the same.
#[must_use]
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for op in OPERATIONS {
        paths.entry(op.path).or_insert_with(|| json!({}))[op.method] = describe(op);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The HTTP addresses of the gateway. All take the bearer of the tenant or an API key (`gateway apikey create`). WebSockets are on `/` (OpenClaw protocol v4) and `/rpc` (JSON-RPC 2.0). Webhooks of channels (`/channels/<kind>/<account>/<route>`) and hooks (`/hooks/<name>`) are what the configuration says.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
            "responses": { "Error": { "description": "Refused; the text says why.", "content": { "application/json": { "schema": reference("Error") } } } },
        },
    })
}
