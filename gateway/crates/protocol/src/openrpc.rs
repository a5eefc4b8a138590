//! What is generated from the tables: the OpenRPC document and two pages of documentation. Pure functions;
//! `cargo xtask schema` writes the files, a test sees that they are fresh.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::error::DetailCode;
use crate::event::Audience;
use crate::method::{Access, Class, MethodSpec, Rule};
use crate::{event, limits, method};

/// The OpenRPC document (version 1.3.2 of that specification) of all methods. Events, which OpenRPC has no
/// place for, stand in `x-events`; the error table in `components.errors`.
pub fn document() -> Value {
    let mut schemas = Map::new();
    let methods: Vec<Value> = method::all()
        .iter()
        .map(|spec| method_object(spec, &mut schemas))
        .collect();
    let events: Vec<Value> = event::all()
        .iter()
        .map(|spec| {
            json!({
                "name": spec.name,
                "summary": spec.doc,
                "audience": audience(spec.audience),
                "droppedWhenSlow": spec.drop_if_slow,
                "payload": hoist((spec.payload_schema)().to_value(), &mut schemas),
            })
        })
        .collect();
    let errors: Map<String, Value> = DetailCode::all()
        .iter()
        .map(|row| {
            let error = json!({
                "code": row.jsonrpc,
                "message": row.doc,
                "data": { "code": row.name, "category": row.top.as_str(), "retryable": row.retryable },
            });
            (row.name.to_owned(), error)
        })
        .collect();
    schemas.sort_keys();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Methods of the gateway, over JSON-RPC 2.0 at /rpc (WebSocket and POST) and over v4 frames at /. \
                params of a JSON-RPC call may have the member _meta beside the parameters: {traceparent?: string}.",
        },
        "methods": methods,
        "components": { "schemas": schemas, "errors": errors },
        "x-protocol-version": crate::PROTOCOL_VERSION,
        "x-events": events,
    })
}

fn method_object(spec: &MethodSpec, schemas: &mut Map<String, Value>) -> Value {
    let schema = hoist((spec.params_schema)().to_value(), schemas);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut params: Vec<Value> = Vec::new();
    // Required ones first, as OpenRPC wants.
    for wanted in [true, false] {
        for param in spec.params.iter().filter(|p| p.rule == Rule::Honoured) {
            if required.contains(&param.name) == wanted {
                params.push(json!({
                    "name": param.name,
                    "description": param.doc,
                    "required": wanted,
                    "schema": schema.pointer(&format!("/properties/{}", param.name)).cloned().unwrap_or(json!({})),
                }));
            }
        }
    }
    let named = |rule: Rule| -> Map<String, Value> {
        spec.params
            .iter()
            .filter(|p| p.rule == rule)
            .map(|p| (p.name.to_owned(), p.doc.into()))
            .collect()
    };
    let mut errors = vec!["INVALID_PARAMS", "INTERNAL"];
    if matches!(spec.access, Access::Operator(_)) {
        errors.insert(0, "MISSING_SCOPE");
    }
    let errors: Vec<Value> = errors
        .into_iter()
        .map(|name| json!({ "$ref": format!("#/components/errors/{name}") }))
        .collect();
    json!({
        "name": spec.name,
        "summary": spec.doc,
        "paramStructure": "by-name",
        "params": params,
        "result": { "name": "result", "schema": hoist((spec.result_schema)().to_value(), schemas) },
        "errors": errors,
        "x-access": access(spec.access),
        "x-class": class(spec.class),
        "x-ignored": named(Rule::Ignored),
        "x-refused": named(Rule::Refused),
    })
}

/// Moves a schema's own definitions to the common ones and points its references there.
fn hoist(mut schema: Value, schemas: &mut Map<String, Value>) -> Value {
    if let Some(map) = schema.as_object_mut() {
        map.remove("$schema");
        map.remove("title");
        if let Some(Value::Object(defs)) = map.remove("$defs") {
            for (name, def) in defs {
                let def = hoist(def, schemas);
                schemas.insert(name, def);
            }
        }
    }
    repoint(&mut schema);
    schema
}

fn repoint(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/components/schemas/{name}");
            }
            map.values_mut().for_each(repoint);
        }
        Value::Array(items) => items.iter_mut().for_each(repoint),
        _ => {}
    }
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Any => "any",
        Access::Operator(scope) => scope.as_str(),
        Access::Node => "node",
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Query => "query",
        Class::Command => "command",
        Class::Wait => "wait",
    }
}

fn audience(audience: Audience) -> &'static str {
    match audience {
        Audience::Any => "any",
        Audience::Scope(scope) => scope.as_str(),
        Audience::Targeted => "targeted",
    }
}

const GENERATED: &str =
    "<!-- Generated by `cargo xtask schema` from gateway/crates/protocol. Do not edit. -->\n\n";

/// The page `docs/protocol.md`.
pub fn docs_markdown() -> String {
    let mut out = format!(
        "{GENERATED}# Protocol\n\n\
         Protocol version {version}. One set of methods, two ways to call them:\n\n\
         * **v4 frames** on `/` (WebSocket): the server sends `connect.challenge`, the client's first request is `connect`, \
         then requests `{{\"type\":\"req\",\"id\",\"method\",\"params\"}}`, answers `{{\"type\":\"res\",\"id\",\"ok\",\"payload\"|\"error\"}}` \
         and events `{{\"type\":\"event\",\"event\",\"payload\",\"seq\"}}`. Events come by themselves.\n\
         * **JSON-RPC 2.0** on `/rpc`, over WebSocket and over POST, with a bearer token and no handshake. Parameters are given by name; \
         names that nobody published are refused. After `rpc.subscribe`, events come as notifications whose method is the event's name \
         and whose params are its payload. `agent` answers once, when the run is over; that it was accepted is the notification \
         `{accepted}`. POST gives final results only. A batch has at most {batch} entries. \
         Beside its parameters a call may have the member `_meta` in `params`, as in the Model Context Protocol: `_meta.traceparent` \
         (W3C Trace Context) is the trace that the call belongs to, other members are ignored.\n\n",
        version = crate::PROTOCOL_VERSION,
        accepted = crate::jsonrpc::AGENT_ACCEPTED,
        batch = limits::MAX_BATCH_ITEMS,
    );
    out.push_str("## Methods\n\n| method | scope | class | what it does |\n|---|---|---|---|\n");
    for spec in method::all() {
        row(
            &mut out,
            &[
                &format!("`{}`", spec.name),
                access(spec.access),
                class(spec.class),
                spec.doc,
            ],
        );
    }
    out.push_str("\nScope `any`: every authenticated connection. `operator.admin` implies every scope, `operator.write` implies `operator.read`.\n");
    for spec in method::all() {
        let _ = write!(out, "\n### `{}`\n\n{}\n", spec.name, spec.doc);
        let honoured: Vec<_> = spec
            .params
            .iter()
            .filter(|p| p.rule == Rule::Honoured)
            .collect();
        if honoured.is_empty() {
            out.push_str("\nNo parameters.\n");
            continue;
        }
        let schema = (spec.params_schema)().to_value();
        out.push_str("\n| parameter | type | |\n|---|---|---|\n");
        for param in honoured {
            let required = schema
                .get("required")
                .and_then(Value::as_array)
                .is_some_and(|names| names.iter().any(|n| n == param.name));
            let words = schema
                .pointer(&format!("/properties/{}", param.name))
                .map_or_else(String::new, |s| type_words(s, &schema));
            let name = if required {
                format!("`{}` (required)", param.name)
            } else {
                format!("`{}`", param.name)
            };
            row(&mut out, &[&name, &words, param.doc]);
        }
    }
    out.push_str("\n## Events\n\nAn event goes only to whom the table names; what is not in it goes to nobody.\n\n| event | audience | slow reader | what it says |\n|---|---|---|---|\n");
    for spec in event::all() {
        let slow = if spec.drop_if_slow {
            "skipped"
        } else {
            "closed"
        };
        row(
            &mut out,
            &[
                &format!("`{}`", spec.name),
                audience(spec.audience),
                slow,
                spec.doc,
            ],
        );
    }
    out.push_str("\n## Errors\n\nv4: `{code, message, details?, retryable?, retryAfterMs?}` with the top-level code; `details.code` is the code where the column v4 says so. \
                  JSON-RPC: the number, and `data.code` is always the code.\n\n\
                  | code | top level | v4 details | HTTP | JSON-RPC | retry | meaning |\n|---|---|---|---|---|---|---|\n");
    for error in DetailCode::all() {
        row(
            &mut out,
            &[
                &format!("`{}`", error.name),
                &format!("`{}`", error.top.as_str()),
                if error.in_details { "yes" } else { "" },
                &error.http.to_string(),
                &error.jsonrpc.to_string(),
                if error.retryable { "yes" } else { "" },
                error.doc,
            ],
        );
    }
    out.push_str("\n## Limits\n\n| limit | value | |\n|---|---|---|\n");
    for limit in limits::ALL {
        row(
            &mut out,
            &[
                &format!("`{}`", limit.name),
                &limit.value.to_string(),
                limit.doc,
            ],
        );
    }
    out
}

/// Where the frames of OpenClaw 2026.9.6, as recorded, and ours differ on purpose.
const DIFFERENCES: &str = "\n## Differences on purpose\n\n\
* `connect.challenge` has no `capabilities`: clients leave out what is not announced.\n\
* A parameter that nobody published is ignored on v4 frames; OpenClaw refuses it for most methods.\n\
* With TLS, `hello-ok.snapshot.health` has `tls` with the fingerprint of the certificate and of the next one: pinned clients learn of a rotation in time.\n\
* A node that this tenant does not have is `NOT_FOUND`, as every object of somebody else; OpenClaw says `PAIRING_CHANGED`. A node whose connection ends in the middle of a call: `NODE_DISCONNECTED` in `nodeError`.\n\
* `node.invoke` of `system.run` is refused unless `gateway.nodes.commands.allow` names it: there are no exec approvals yet. `system.run`, `system.execApprovals.*` and `desktop.stream` need `operator.admin`.\n\
* A node that offers nothing asks for nothing; `silent` of requests is always false. A repeated sign of life within 10 s is answered `updated` and not `persisted`.\n\
* `node.runnerInventory.update` is taken at any time: nothing runs on nodes but their commands.\n\
* A slow consumer is closed at 4 MiB instead of 50 MB of waiting events (1008, `slow consumer (last seq N)`, N being the last event that it was sent). \
Events are not sent twice: the client fetches `sessions.list` and `chat.history` when it comes again, and they are complete.\n\
* Sockets whose credential was changed are closed with 4001 `gateway auth changed`.\n";

/// The page `docs/compat.md`: what happens with each published parameter.
pub fn compat_markdown() -> String {
    let mut out = format!(
        "{GENERATED}# Compatibility with OpenClaw clients\n\n\
         Each published parameter of the methods below is *honoured* (it does what it says), *ignored* (accepted; it has no effect that \
         anybody could miss here) or *refused* (`unsupported: NAME`, unless it asks for nothing: `null`, `false`, an empty text, list or object, `\"off\"`). \
         On v4 frames, names that nobody published are ignored, because newer clients send them; on JSON-RPC they are refused. \
         `connect` is a closed object on both. Methods that are not listed are unknown: `features.methods` says what there is.\n",
    );
    out.push_str(DIFFERENCES);
    let (published, ours): (Vec<&&MethodSpec>, Vec<&&MethodSpec>) =
        method::all().iter().partition(|s| s.published);
    for spec in published {
        let _ = write!(out, "\n## `{}`\n\n", spec.name);
        if spec.params.is_empty() {
            out.push_str("No parameters.\n");
            continue;
        }
        out.push_str("| parameter | | |\n|---|---|---|\n");
        for rule in [Rule::Honoured, Rule::Ignored, Rule::Refused] {
            for param in spec.params.iter().filter(|p| p.rule == rule) {
                row(
                    &mut out,
                    &[&format!("`{}`", param.name), rule.as_str(), param.doc],
                );
            }
        }
    }
    out.push_str("\n## Methods that OpenClaw does not have\n\n");
    for spec in ours {
        let _ = writeln!(out, "* `{}`: {}", spec.name, spec.doc);
    }
    out
}

fn row(out: &mut String, cells: &[&str]) {
    for cell in cells {
        let _ = write!(out, "| {} ", cell.replace('|', "\\|").replace('\n', " "));
    }
    out.push_str("|\n");
}

/// A schema in a few words: `string, 1 to 256 characters`.
fn type_words(schema: &Value, root: &Value) -> String {
    if let Some(pointer) = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.strip_prefix('#'))
    {
        return root
            .pointer(pointer)
            .map_or_else(String::new, |s| type_words(s, root));
    }
    if let Some(choices) = schema
        .get("anyOf")
        .or_else(|| schema.get("oneOf"))
        .and_then(Value::as_array)
    {
        let words: Vec<String> = choices
            .iter()
            .map(|c| {
                c.get("const")
                    .map_or_else(|| type_words(c, root), |v| format!("`{v}`"))
            })
            .filter(|w| w != "null")
            .collect();
        return words.join(" or ");
    }
    if let Some(names) = schema.get("enum").and_then(Value::as_array) {
        let names: Vec<String> = names
            .iter()
            .filter(|n| !n.is_null())
            .map(|n| format!("`{n}`"))
            .collect();
        return names.join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    let mut words = match schema.get("type") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .filter(|n| *n != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ => String::new(),
    };
    if let Some(items) = schema.get("items") {
        words = format!("list of {}", type_words(items, root));
    }
    let bound = |name: &str| {
        schema
            .get(name)
            .filter(|v| !v.is_null())
            .map(ToString::to_string)
    };
    match (
        bound("minLength").or(bound("minimum")),
        bound("maxLength").or(bound("maximum")),
    ) {
        (Some(min), Some(max)) => {
            let _ = write!(words, ", {min} to {max}");
        }
        (Some(min), None) => {
            let _ = write!(words, ", at least {min}");
        }
        (None, Some(max)) => {
            let _ = write!(words, ", at most {max}");
        }
        (None, None) => {}
    }
    if schema.get("minLength").is_some() || schema.get("maxLength").is_some() {
        words.push_str(" characters");
    }
    words
}
