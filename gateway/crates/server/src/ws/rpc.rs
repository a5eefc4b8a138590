//! JSON-RPC 2.0 on one socket. The caller is known from the upgrade; events come as notifications after a subscription.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::{
    auth::{ApiKey, Authenticated, Proof},
    cx::{Caller, Caps, ClientInfo, Cx, InterimSink, Role, Surface},
    hub::{ConnInfo, EventPolicy, HubGuard, WireEvent},
    tenant::Tenant,
};
use gateway_protocol::{error::RpcError, frame::Close, jsonrpc};
use tokio_util::sync::CancellationToken;

use super::{
    Beat,
    conn::{Call, CallKind, Link},
    out::TEXT,
};
use crate::{
    http::{Ask, auth},
    limits::WS_CALLS_IN_FLIGHT,
    rpc::{self, Started},
};

/// What the codec knows of its connection.
pub(crate) struct Rpc {
    tenant: Arc<Tenant>,
    caller: Option<Arc<Caller>>,
    proof: Proof,
    method: &'static str,
    scopes: gateway_protocol::ScopeSet,
    key: Option<Arc<ApiKey>>,
    only_methods: Option<Arc<[Box<str>]>>,
    ip: std::net::IpAddr,
    cancel: CancellationToken,
    hub: Option<HubGuard>,
    pub(crate) beat: Beat,
}

impl Rpc {
    pub(crate) fn new(ask: &Ask, found: Authenticated) -> Self {
        let beat = Beat::new(ask.app.timer.now_ms(), ask.app.limits.ping_interval_ms);
        Self {
            only_methods: auth::methods_of(&found, Surface::JsonRpcWs),
            tenant: found.tenant,
            caller: None,
            proof: found.proof,
            method: found.method,
            scopes: found.ceiling,
            key: found.key,
            ip: ask.ip(),
            cancel: CancellationToken::new(),
            hub: None,
            beat,
        }
    }

    pub(crate) fn open(&mut self, link: &mut Link) {
        let app = link.app.clone();
        let id = app.host.new_conn_id();
        let mode = if link.origin.is_some() {
            "ui"
        } else {
            "backend"
        };
        let client = ClientInfo {
            id: "jsonrpc".to_owned(),
            mode: mode.to_owned(),
            ..ClientInfo::default()
        };
        let ip = Some(self.ip);
        let (role, caps) = (
            Role::Operator,
            Caps {
                tool_events: true,
                ..Caps::default()
            },
        );
        let info = ConnInfo {
            conn: id.clone(),
            role,
            proof: self.proof,
            device: None,
            scopes: self.scopes,
            caps,
            client: client.clone(),
            ip,
            events: EventPolicy::AfterSubscribe,
            connected_at_ms: app.now_ms(),
        };
        match app.host.register(&self.tenant, info, link.shared.clone()) {
            Ok(hub) => self.hub = Some(hub),
            Err(_) => return link.close(Close::new(Close::STARTING, "too many connections")),
        }
        self.caller = Some(Arc::new(Caller {
            conn: Some(id),
            role,
            scopes: self.scopes,
            key: self.key.clone(),
            device: None,
            only_methods: self.only_methods.clone(),
            caps,
            client,
            surface: Surface::JsonRpcWs,
            ip,
            credential: Some(self.proof.name(self.method)),
        }));
    }

    pub(crate) fn message(&mut self, link: &mut Link, bytes: &Bytes) {
        let Some(caller) = &self.caller else { return };
        let items = match jsonrpc::parse(bytes) {
            jsonrpc::Parsed::Fault(answer) => return link.text(answer),
            jsonrpc::Parsed::Single(item) => {
                match self.start(link, caller, &item) {
                    Started::Nothing => {}
                    Started::Done(answer) => link.text(answer),
                    Started::Running(running) => {
                        let kind = running.id.map_or(CallKind::Raw, CallKind::Rpc);
                        link.calls.push(Call {
                            kind,
                            waits: running.waits,
                            future: running.future,
                        });
                    }
                }
                return;
            }
            jsonrpc::Parsed::Batch(items) => items,
        };
        let started = items
            .iter()
            .map(|item| self.start(link, caller, item))
            .collect();
        match rpc::batch(started) {
            Started::Nothing => {}
            Started::Done(answer) => link.text(answer),
            Started::Running(running) => link.calls.push(Call {
                kind: CallKind::Raw,
                waits: running.waits,
                future: running.future,
            }),
        }
    }

    fn start(&self, link: &Link, caller: &Arc<Caller>, item: &jsonrpc::Item<'_>) -> Started {
        if link.calls.len() >= WS_CALLS_IN_FLIGHT {
            return rpc::overloaded(item);
        }
        let cx = Cx {
            tenant: self.tenant.clone(),
            caller: caller.clone(),
            cancel: self.cancel.clone(),
            interim: interim(link, item),
            traceparent: None,
            idempotency: None,
            audit: Default::default(),
        };
        rpc::start(&link.app, cx, item)
    }

    pub(crate) fn answer(
        &mut self,
        link: &mut Link,
        kind: CallKind,
        result: Result<Bytes, RpcError>,
    ) {
        match (kind, result) {
            (CallKind::Rpc(id), result) => link.text(rpc::encode(&id, result)),
            (_, Ok(whole)) if !whole.is_empty() => link.text(whole),
            _ => {}
        }
    }

    pub(crate) fn event(&mut self, link: &mut Link, event: &WireEvent) {
        let seq = link.next_seq();
        let prefix = format!(
            r#"{{"jsonrpc":"2.0","method":"event","params":{{"event":"{}","seq":{seq},"payload":"#,
            event.name
        );
        link.out
            .message(TEXT, prefix.as_bytes(), &event.payload, b"}}");
    }

    pub(crate) fn tick(&mut self, link: &mut Link) {
        self.beat.round(link);
    }

    pub(crate) fn gone(&mut self) {
        self.cancel.cancel();
        self.hub = None;
    }
}

/// The first of two results goes out as a notification that names the request.
fn interim(link: &Link, item: &jsonrpc::Item<'_>) -> Option<InterimSink> {
    let jsonrpc::Item::Call { id, method, .. } = item else {
        return None;
    };
    if !link.app.interim.contains(&**method) {
        return None;
    }
    let (shared, id) = (link.shared.clone(), Box::<str>::from(id.get()));
    Some(Arc::new(move |payload| {
        let params = [
            br#"{"id":"#,
            id.as_bytes(),
            br#","result":"#,
            &payload,
            b"}",
        ]
        .concat();
        shared.frame(jsonrpc::encode_notification(jsonrpc::AGENT_ACCEPTED, &params).into());
    }))
}
