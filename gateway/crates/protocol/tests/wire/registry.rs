use std::collections::BTreeSet;

use gateway_protocol::error::{DetailCode, ErrorCode};
use gateway_protocol::event::{
    AgentEvent, AgentStream, ChatEvent, ChatState, LifecycleData, StartupPhase, ToolData,
};
use gateway_protocol::method::{self, Method, Params, decode};
use gateway_protocol::methods::{
    agents, apikeys, audit, backup, channels, chat, config, connect, cron, device_setup, devices,
    heartbeat, logs, node_host, nodes, rpc, sessions, system, tools,
};
use gateway_protocol::{Access, ChatMessage, Role, RpcError, Rule, Scope, event, openrpc};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

/// Runs a generic check for every method of the registry; the list is checked for completeness itself.
macro_rules! for_all_methods {
    ($check:ident) => {{
        let mut names = BTreeSet::new();
        macro_rules! each {
            ($marker:ty) => {
                assert!(
                    names.insert(<$marker as Method>::NAME),
                    "{} twice",
                    <$marker as Method>::NAME
                );
                $check::<$marker>();
            };
        }
        each!(agents::Agent);
        each!(agents::AgentWait);
        each!(agents::AgentsFilesGet);
        each!(agents::AgentsList);
        each!(agents::ModelsList);
        each!(audit::AuditEntries);
        each!(audit::AuditVerify);
        each!(apikeys::ApiKeysCreate);
        each!(apikeys::ApiKeysList);
        each!(apikeys::ApiKeysRevoke);
        each!(backup::BackupSnapshot);
        each!(channels::ChannelsPairingApprove);
        each!(channels::ChannelsPairingList);
        each!(channels::ChannelsStart);
        each!(channels::ChannelsStatus);
        each!(channels::ChannelsStop);
        each!(channels::OutboxList);
        each!(channels::Send);
        each!(chat::ChatAbort);
        each!(chat::ChatHistory);
        each!(chat::ChatInject);
        each!(chat::ChatSend);
        each!(config::ConfigApply);
        each!(config::ConfigGet);
        each!(config::ConfigPatch);
        each!(config::ConfigSchema);
        each!(config::ConfigSchemaLookup);
        each!(config::ConfigSet);
        each!(connect::Connect);
        each!(cron::CronAdd);
        each!(cron::CronGet);
        each!(cron::CronList);
        each!(cron::CronRemove);
        each!(cron::CronRun);
        each!(cron::CronRuns);
        each!(cron::CronStatus);
        each!(cron::CronUpdate);
        each!(devices::DevicePairApprove);
        each!(devices::DevicePairList);
        each!(devices::DevicePairReject);
        each!(devices::DevicePairRemove);
        each!(devices::DevicePairRename);
        each!(device_setup::DevicePairSetupCode);
        each!(device_setup::DevicePairSetupStatus);
        each!(devices::DeviceScopesRequestUpgrade);
        each!(devices::DeviceScopesWaitUpgrade);
        each!(devices::DeviceTokenRevoke);
        each!(devices::DeviceTokenRotate);
        each!(heartbeat::LastHeartbeat);
        each!(heartbeat::SetHeartbeats);
        each!(heartbeat::SystemEvent);
        each!(heartbeat::Wake);
        each!(logs::LogsTail);
        each!(node_host::NodeEvent);
        each!(node_host::NodeInvokeProgress);
        each!(node_host::NodeInvokeResultGive);
        each!(node_host::NodePendingAck);
        each!(node_host::NodePendingDrain);
        each!(node_host::NodePendingPull);
        each!(node_host::NodePluginToolsUpdate);
        each!(node_host::NodeRunnerInventoryUpdate);
        each!(node_host::NodeSkillsUpdate);
        each!(nodes::NodeDescribe);
        each!(nodes::NodeInvoke);
        each!(nodes::NodeList);
        each!(nodes::NodePairApprove);
        each!(nodes::NodePairList);
        each!(nodes::NodePairReject);
        each!(nodes::NodePairRemove);
        each!(nodes::NodePendingEnqueue);
        each!(nodes::NodeRename);
        each!(rpc::RpcDiscover);
        each!(rpc::RpcSubscribe);
        each!(rpc::RpcUnsubscribe);
        each!(sessions::SessionsCreate);
        each!(sessions::SessionsDelete);
        each!(sessions::SessionsDescribe);
        each!(sessions::SessionsList);
        each!(sessions::SessionsMessagesSubscribe);
        each!(sessions::SessionsMessagesUnsubscribe);
        each!(sessions::SessionsReset);
        each!(sessions::SessionsSubscribe);
        each!(sessions::SessionsUnsubscribe);
        each!(system::BootList);
        each!(system::BootRun);
        each!(system::GatewayIdentityGet);
        each!(system::Health);
        each!(system::Status);
        each!(system::SystemPresence);
        each!(tools::ToolsCatalog);
        let registered: BTreeSet<&str> = method::all().iter().map(|m| m.name).collect();
        assert_eq!(names, registered);
    }};
}

#[test]
fn the_list_is_sorted_and_searchable() {
    assert!(
        method::all().windows(2).all(|w| w[0].name < w[1].name),
        "sorted, no name twice"
    );
    for spec in method::all() {
        assert_eq!(method::find(spec.name).unwrap().name, spec.name);
        assert!(
            spec.doc.ends_with('.') && spec.doc.len() > 10,
            "{}",
            spec.name
        );
        assert!(spec.name.len() <= gateway_protocol::limits::MAX_METHOD_NAME_BYTES);
        let names: BTreeSet<&str> = spec.params.iter().map(|p| p.name).collect();
        assert_eq!(
            names.len(),
            spec.params.len(),
            "{}: a name twice",
            spec.name
        );
        assert!(
            spec.params.iter().all(|p| p.doc.ends_with('.')),
            "{}",
            spec.name
        );
    }
    assert!(method::find("no.such.method").is_none() && method::find("").is_none());
    assert!(event::all().windows(2).all(|w| w[0].name < w[1].name));
}

/// The scopes of the methods as the protocol classifies them; what is not `operator.read` stands here.
#[test]
fn scopes_are_those_of_the_protocol() {
    for spec in method::all() {
        let expected = match spec.name {
            "health" | "rpc.discover" | "rpc.subscribe" | "rpc.unsubscribe" => Access::Any,
            // The published table says read; the reference answers a device without scopes too, for which they are made.
            "device.scopes.requestUpgrade" | "device.scopes.waitUpgrade" => Access::Any,
            "device.pair.setupCode" | "device.pair.setupStatus" => Access::Operator(Scope::Admin),
            "connect" | "chat.inject" | "channels.start" | "channels.stop" | "sessions.reset"
            | "config.set" | "config.patch" | "config.apply" | "cron.add" | "cron.update"
            | "cron.remove" | "cron.run" | "backup.snapshot" | "apikeys.create"
            | "apikeys.list" | "apikeys.revoke" | "audit.entries" | "audit.verify" | "boot.run"
            | "set-heartbeats" | "system-event" => Access::Operator(Scope::Admin),
            "chat.send" | "chat.abort" | "agent" | "agent.wait" | "send" | "wake"
            | "sessions.create" | "sessions.delete" => Access::Operator(Scope::Write),
            "channels.pairing.list" | "channels.pairing.approve" => {
                Access::Operator(Scope::Pairing)
            }
            "node.invoke.result"
            | "node.invoke.progress"
            | "node.event"
            | "node.pending.pull"
            | "node.pending.ack"
            | "node.pending.drain"
            | "node.pluginTools.update"
            | "node.skills.update"
            | "node.runnerInventory.update" => Access::Node,
            "node.invoke" | "node.pending.enqueue" => Access::Operator(Scope::Write),
            "node.rename" => Access::Operator(Scope::Pairing),
            name if name.starts_with("device.") || name.starts_with("node.pair.") => {
                Access::Operator(Scope::Pairing)
            }
            _ => Access::Operator(Scope::Read),
        };
        assert_eq!(spec.access, expected, "{}", spec.name);
    }
    assert_eq!(agents::agent_message_scope(" /new please"), Scope::Admin);
    assert_eq!(agents::agent_message_scope("/RESET"), Scope::Admin);
    assert_eq!(agents::agent_message_scope("/newer"), Scope::Write);
    assert_eq!(agents::agent_message_scope(""), Scope::Write);
}

/// A value that fits a schema, as small as possible.
fn sample(schema: &Value, root: &Value) -> Value {
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str) {
        return sample(root.pointer(&pointer[1..]).unwrap(), root);
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|e| e.get(0)) {
        return first.clone();
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(first) = schema.get(word).and_then(|c| c.get(0)) {
            return sample(first, root);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds[0].as_str().unwrap_or("null"),
        Some(Value::String(kind)) => kind,
        _ => return json!({}),
    };
    match kind {
        "string" => "x"
            .repeat(schema.get("minLength").and_then(Value::as_u64).unwrap_or(0) as usize)
            .into(),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(0)),
        "boolean" => json!(true),
        "array" => json!([]),
        _ => {
            let mut map = Map::new();
            for name in schema
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let name = name.as_str().unwrap();
                map.insert(name.to_owned(), sample(&schema["properties"][name], root));
            }
            map.into()
        }
    }
}

fn decoded<M: Method>(value: &Value, strict: bool) -> Result<M::Params, RpcError> {
    decode::<M>(Some(&to_raw_value(value).unwrap()), strict)
}

fn check_params<M: Method>() {
    let spec = M::SPEC;
    let schema = (spec.params_schema)().to_value();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let smallest = sample(&schema, &schema);

    // The smallest good value decodes, strictly too, and encodes to something that decodes to the same.
    for strict in [false, true] {
        let params = decoded::<M>(&smallest, strict)
            .unwrap_or_else(|e| panic!("{}: {smallest}: {e}", spec.name));
        let again = serde_json::to_value(&params).unwrap();
        assert_eq!(
            serde_json::to_value(decoded::<M>(&again, true).unwrap()).unwrap(),
            again,
            "{}",
            spec.name
        );
    }

    // The table lists exactly what is decoded as honoured.
    if spec.name != "connect" {
        let honoured: BTreeSet<&str> = spec
            .params
            .iter()
            .filter(|p| p.rule == Rule::Honoured)
            .map(|p| p.name)
            .collect();
        assert_eq!(
            honoured,
            properties.keys().map(String::as_str).collect(),
            "{}",
            spec.name
        );
    }

    // Every honoured parameter: full value good; a wrong type or a broken bound is refused, in known words.
    for (name, property) in &properties {
        let mut full = smallest.clone();
        full[name] = sample(property, &schema);
        decoded::<M>(&full, true).unwrap_or_else(|e| panic!("{}.{name}: {e}", spec.name));
        let text = property.to_string();
        let mut wrong = vec![
            json!({ "wrong": { "type": 1 } }),
            json!([["wrong"]]),
            json!(-1.5),
            json!(true),
            json!("\u{0}wrong"),
        ];
        if let Some(min) = property
            .get("minimum")
            .and_then(Value::as_u64)
            .filter(|min| *min > 0)
        {
            wrong.push(json!(min - 1));
        }
        if let Some(max) = property.get("maximum").and_then(Value::as_u64) {
            wrong.push(json!(max + 1));
        }
        if let Some(max) = property.get("maxLength").and_then(Value::as_u64) {
            wrong.push("é".repeat(max as usize + 1).into());
        }
        if property.get("minLength").is_some() {
            wrong.push(json!(""));
        }
        let mut refused = 0;
        for value in wrong {
            let mut params = smallest.clone();
            params[name] = value.clone();
            match decoded::<M>(&params, false) {
                Ok(_) => {}
                Err(error) => {
                    refused += 1;
                    let at = format!("invalid {} params: at /{name}", spec.name);
                    assert!(
                        error.message.starts_with(&at),
                        "{name} = {value}: {}",
                        error.message
                    );
                    assert!(
                        !error.message.contains("column"),
                        "{name} = {value}: {}",
                        error.message
                    );
                    assert_eq!(
                        (error.detail, error.http_status()),
                        (DetailCode::InvalidParams, 400)
                    );
                }
            }
        }
        let anything = !text.contains("type") && !text.contains("$ref") && !text.contains("const");
        assert!(
            refused >= 3 || anything,
            "{}.{name} takes everything",
            spec.name
        );
    }

    // Leaving out a required one.
    for name in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let name = name.as_str().unwrap();
        let mut params = smallest.clone();
        params.as_object_mut().unwrap().remove(name);
        let error = decoded::<M>(&params, false).unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "invalid {} params: must have required property '{name}'",
                spec.name
            )
        );
    }

    // Ignored ones are ignored; refused ones are refused unless they ask for nothing.
    for param in spec.params {
        let ask = |value: Value| {
            let mut params = smallest.clone();
            params[param.name] = value;
            decoded::<M>(&params, true)
        };
        match param.rule {
            Rule::Honoured => {}
            Rule::Ignored if spec.name == "connect" => {}
            Rule::Ignored => drop(ask(json!({ "a": [1] })).unwrap()),
            Rule::Refused => {
                for nothing in [
                    json!(null),
                    json!(false),
                    json!([]),
                    json!({}),
                    json!(""),
                    json!("off"),
                ] {
                    ask(nothing).unwrap();
                }
                for something in [
                    json!(true),
                    json!(0),
                    json!("x"),
                    json!([null]),
                    json!({ "a": null }),
                    json!(1.5),
                ] {
                    let error = ask(something).unwrap_err();
                    assert_eq!(error.message, format!("unsupported: {}", param.name));
                    assert_eq!(
                        serde_json::to_value(&error).unwrap()["details"]["param"],
                        param.name
                    );
                }
            }
        }
    }

    // Unknown and repeated names: only the strict surface minds.
    if spec.name != "connect" {
        let mut params = smallest.clone();
        params["bogus"] = json!(1);
        decoded::<M>(&params, false).unwrap();
        let error = decoded::<M>(&params, true).unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "invalid {} params: at root: unexpected property 'bogus'",
                spec.name
            )
        );
    }
    if let Some(name) = properties.keys().next() {
        let value = sample(&properties[name], &schema);
        let text = format!(r#"{{"{name}":{value},"{name}":{value}}}"#);
        assert!(
            decode::<M>(Some(serde_json::from_str(&text).unwrap()), true).is_err(),
            "{}: {name} twice",
            spec.name
        );
    }
    for value in [json!([]), json!(1), json!("x"), json!([1])] {
        let error = decoded::<M>(&value, false).unwrap_err();
        assert_eq!(
            error.message,
            format!("invalid {} params: must be object", spec.name)
        );
    }
    if <M::Params as Params>::PARAMS
        .iter()
        .all(|p| p.rule != Rule::Honoured)
    {
        decode::<M>(None, true).unwrap();
        decode::<M>(Some(&to_raw_value(&Value::Null).unwrap()), true).unwrap();
    }
}

/// Generated: every parameter of every method, good and wrong.
#[test]
fn parameters_of_all_methods() {
    for_all_methods!(check_params);
}

#[test]
fn every_method_takes_absent_parameters_as_empty() {
    assert!(decode::<sessions::SessionsList>(None, true).is_ok());
    let error = decode::<chat::ChatSend>(None, false).unwrap_err();
    assert_eq!(
        error.message,
        "invalid chat.send params: must have required property 'sessionKey'"
    );
}

/// What existing clients send today.
#[test]
fn recorded_parameters_decode() {
    fn ok<M: Method>(value: Value) -> M::Params {
        decoded::<M>(&value, false).unwrap_or_else(|e| panic!("{}: {e}", M::NAME))
    }
    ok::<chat::ChatSend>(json!({
        "sessionKey": "agent:main:main", "sessionId": "b3d4", "message": "hello tui", "deliver": false, "idempotencyKey": "a2ba",
    }));
    ok::<agents::Agent>(
        json!({ "message": "hello", "agentId": "main", "deliver": false, "timeout": 600, "idempotencyKey": "9f" }),
    );
    ok::<sessions::SessionsCreate>(json!({ "key": "agent:main:lab1", "label": "Lab 1" }));
    ok::<nodes::NodeInvoke>(
        json!({ "nodeId": "38c2", "command": "system.which", "params": { "bins": ["uname"] }, "timeoutMs": 8000, "idempotencyKey": "w1" }),
    );
    ok::<nodes::NodePendingEnqueue>(
        json!({ "nodeId": "89c6", "type": "status.request", "priority": "normal" }),
    );
    ok::<node_host::NodeInvokeResultGive>(
        json!({ "id": "f13e", "nodeId": "89c6", "ok": true, "payloadJSON": "{\"model\":\"lab\"}" }),
    );
    ok::<node_host::NodeEvent>(
        json!({ "event": "node.presence.alive", "payloadJSON": "{\"trigger\":\"manual\",\"sentAtMs\":1}" }),
    );
    ok::<node_host::NodeRunnerInventoryUpdate>(
        json!({ "protocolFeatures": ["node-worker-supervisor-v6"], "workerHost": { "enabled": false } }),
    );
    ok::<sessions::SessionsList>(json!({
        "includeGlobal": true, "includeUnknown": true, "configuredAgentsOnly": true, "limit": 200, "includeDerivedTitles": true,
        "includeLastMessage": true, "ownerFirst": true, "agentId": "main",
    }));
    ok::<sessions::SessionsMessagesSubscribe>(
        json!({ "key": "agent:main:main", "includeApprovals": true }),
    );
    ok::<chat::ChatHistory>(json!({ "sessionKey": "main", "limit": 200 }));
    ok::<channels::ChannelsStatus>(json!({ "probe": false, "timeoutMs": 10_000 }));
    ok::<agents::ModelsList>(json!({ "view": "default", "includeDetails": true }));
    ok::<logs::LogsTail>(json!({ "limit": 200, "maxBytes": 250_000 }));
    ok::<system::Status>(json!({ "includeChannelSummary": false }));
    ok::<system::Health>(json!({}));
    let sent = ok::<channels::Send>(
        json!({ "to": "+15555550100", "message": "x", "channel": "telegram", "idempotencyKey": "k1" }),
    );
    assert_eq!(sent.to.as_str(), "+15555550100");
    let error = decoded::<chat::ChatSend>(
        &json!({ "sessionKey": "a", "message": "", "idempotencyKey": "1", "thinking": "low" }),
        false,
    );
    assert_eq!(error.unwrap_err().message, "unsupported: thinking");
    let error = decoded::<chat::ChatSend>(
        &json!({ "sessionKey": "a", "message": "", "idempotencyKey": "1", "queueMode": "steer" }),
        false,
    );
    assert_eq!(
        error.unwrap_err().message,
        "invalid chat.send params: at /queueMode: must be equal to one of the allowed values"
    );
}

#[test]
fn the_error_table() {
    let mut names = BTreeSet::new();
    for (i, row) in DetailCode::all().iter().enumerate() {
        assert_eq!(row.code as usize, i, "row and code agree");
        assert_eq!(row.code.row().name, row.name);
        assert!(names.insert(row.name), "{} twice", row.name);
        assert_eq!(DetailCode::from_name(row.name), Some(row.code));
        assert!(
            (400..=599).contains(&row.http) && row.doc.ends_with('.'),
            "{}",
            row.name
        );
        let reserved = (-32768..=-32100).contains(&row.jsonrpc);
        assert!(
            (-32099..=-32000).contains(&row.jsonrpc)
                || (reserved && (-32700..=-32600).contains(&row.jsonrpc)),
            "{}",
            row.name
        );
        if row.top == ErrorCode::Unavailable {
            assert!(row.http >= 429, "{}: not the caller's fault", row.name);
        }
        let error = RpcError::new(row.code, "x");
        let value = serde_json::to_value(&error).unwrap();
        assert_eq!(value["code"], row.top.as_str());
        assert_eq!(
            value.pointer("/details/code").is_some(),
            row.in_details,
            "{}",
            row.name
        );
        assert_eq!(
            value.get("retryable").is_some(),
            row.retryable,
            "{}",
            row.name
        );
    }
    for name in [
        "MISSING_SCOPE",
        "NOT_FOUND",
        "CONFLICT",
        "IDEMPOTENCY_CONFLICT",
        "PAYLOAD_TOO_LARGE",
        "RATE_LIMITED",
        "QUOTA_EXCEEDED",
        "DEADLINE",
        "DRAINING",
        "GUEST_TRAPPED",
        "CAPABILITY_DENIED",
        "STORAGE_FULL",
        "TENANT_UNAVAILABLE",
        "INTERNAL",
    ] {
        assert!(DetailCode::from_name(name).is_some(), "{name}");
    }
    // Details cannot pretend to be another error.
    let error = RpcError::not_found("run")
        .with("code", "INTERNAL")
        .with("kind", "run");
    assert_eq!(
        serde_json::to_value(error).unwrap()["details"],
        json!({ "code": "NOT_FOUND", "kind": "run" })
    );
}

#[test]
fn events_look_as_recorded() {
    let chat = |state| {
        let event = ChatEvent {
            run_id: "r".into(),
            session_key: "agent:main:x".into(),
            agent_id: Some("main".into()),
            seq: 6,
            state,
        };
        serde_json::to_value(event).unwrap()
    };
    assert_eq!(
        chat(ChatState::Status {
            phase: StartupPhase::PreparingWorkspace
        }),
        json!({ "runId": "r", "sessionKey": "agent:main:x", "agentId": "main", "seq": 6, "state": "status", "phase": "preparing_workspace" })
    );
    let message = ChatMessage::text(Role::Assistant, "Hello", 1_795_349_281_728);
    assert_eq!(
        chat(ChatState::Delta {
            message: Some(message.clone()),
            delta_text: "Hello".into(),
            replace: None
        }),
        json!({
            "runId": "r", "sessionKey": "agent:main:x", "agentId": "main", "seq": 6, "state": "delta", "deltaText": "Hello",
            "message": { "role": "assistant", "content": [{ "type": "text", "text": "Hello" }], "timestamp": 1_795_349_281_728_i64 },
        })
    );
    let done = chat(ChatState::Final {
        message: Some(message),
        usage: None,
        stop_reason: Some("stop".into()),
    });
    assert_eq!(
        (&done["state"], &done["stopReason"]),
        (&json!("final"), &json!("stop"))
    );
    let agent = |stream| {
        let event = AgentEvent {
            run_id: "r".into(),
            seq: 3,
            ts: 5,
            session_key: "agent:main:x".into(),
            agent_id: "main".into(),
            stream,
        };
        serde_json::to_value(event).unwrap()
    };
    assert_eq!(
        agent(AgentStream::Lifecycle(LifecycleData::Start {
            started_at: 5
        })),
        json!({
            "runId": "r", "seq": 3, "ts": 5, "sessionKey": "agent:main:x", "agentId": "main", "stream": "lifecycle",
            "data": { "phase": "start", "startedAt": 5 },
        })
    );
    let text = agent(AgentStream::Assistant {
        text: "Hello".into(),
        delta: "lo".into(),
        item_id: "i:1".into(),
        replace: None,
    });
    assert_eq!(
        (&text["stream"], &text["data"]),
        (
            &json!("assistant"),
            &json!({ "text": "Hello", "delta": "lo", "itemId": "i:1" })
        )
    );
    let status = agent(AgentStream::RunStatus {
        phase: StartupPhase::StartingModel,
    });
    assert_eq!(
        (&status["stream"], &status["data"]),
        (&json!("run_status"), &json!({ "phase": "starting_model" }))
    );
    let usage = agent(AgentStream::Usage {
        input_tokens: None,
        output_tokens: Some(6),
    });
    assert_eq!(
        (&usage["stream"], &usage["data"]),
        (&json!("usage"), &json!({ "outputTokens": 6 }))
    );
    let tool = agent(AgentStream::Tool(ToolData::Start {
        name: "time".into(),
        tool_call_id: "c".into(),
        args: json!({}),
    }));
    assert_eq!(
        (&tool["stream"], &tool["data"]),
        (
            &json!("tool"),
            &json!({ "phase": "start", "name": "time", "toolCallId": "c", "args": {} })
        )
    );
}

fn check_result<M: Method>() {
    let schema = (M::SPEC.result_schema)().to_value();
    // A result schema that allows anything would document nothing. The OpenRPC document is the exception.
    assert!(
        schema.get("type").is_some() || M::NAME == "rpc.discover",
        "{}",
        M::NAME
    );
}

#[test]
fn the_openrpc_document() {
    for_all_methods!(check_result);
    let document = openrpc::document();
    assert_eq!(document, openrpc::document(), "the same every time");
    assert_eq!(
        document["methods"].as_array().unwrap().len(),
        method::all().len()
    );
    // Every reference leads somewhere.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        assert!(
            document
                .pointer(reference.strip_prefix('#').unwrap())
                .is_some(),
            "{reference}"
        );
    }
    for object in document["methods"].as_array().unwrap() {
        let required: Vec<bool> = object["params"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["required"].as_bool().unwrap())
            .collect();
        assert!(
            required.is_sorted_by(|a, b| a >= b),
            "required ones first: {}",
            object["name"]
        );
        for param in object["params"].as_array().unwrap() {
            assert_ne!(
                param["schema"],
                json!({}),
                "{} {}",
                object["name"],
                param["name"]
            );
        }
    }
}

/// Two types of one name would silently share one schema in the document.
#[test]
fn schema_names_are_unique() {
    use std::collections::BTreeMap;
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let schemas = method::all()
        .iter()
        .flat_map(|m| [(m.params_schema)(), (m.result_schema)()])
        .chain(event::all().iter().map(|e| (e.payload_schema)()));
    for schema in schemas {
        for (name, def) in schema
            .as_value()
            .get("$defs")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
        {
            assert_eq!(
                seen.entry(name.clone()).or_insert_with(|| def.clone()),
                &def,
                "{name}"
            );
        }
    }
}

#[test]
fn the_pages_name_everything() {
    let (docs, compat) = (openrpc::docs_markdown(), openrpc::compat_markdown());
    for spec in method::all() {
        assert!(
            docs.contains(&format!("### `{}`", spec.name))
                && compat.contains(&format!("`{}`", spec.name)),
            "{}",
            spec.name
        );
        for param in spec.params.iter().filter(|_| spec.published) {
            assert!(
                compat.contains(&format!("| `{}` | {} |", param.name, param.rule.as_str())),
                "{}",
                param.name
            );
        }
    }
    for row in DetailCode::all() {
        assert!(docs.contains(&format!("| `{}` |", row.name)));
    }
}

/// No honoured parameter of any method names a place to connect to, so no call can send our credentials anywhere.
/// Covers: B2.
#[test]
fn no_parameter_names_an_endpoint() {
    for spec in gateway_protocol::method::all() {
        for param in spec.params {
            let name = param.name.to_ascii_lowercase();
            let endpoint = [
                "url", "endpoint", "host", "baseurl", "server", "proxy", "webhook", "callback",
            ]
            .iter()
            .any(|word| name == *word || name.ends_with(word));
            let honoured = param.rule == gateway_protocol::method::Rule::Honoured;
            // It is written into the code for the device; the gateway itself never connects there.
            let told_only = (spec.name, param.name) == ("device.pair.setupCode", "publicUrl");
            assert!(
                !(endpoint && honoured) || told_only,
                "{} honours {}",
                spec.name,
                param.name
            );
        }
    }
}
