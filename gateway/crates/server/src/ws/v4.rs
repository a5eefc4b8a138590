//! The v4 protocol on one socket: challenge, `connect`, then requests and numbered events.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use gateway_core::{
    auth::{Authenticated, Proof},
    cx::{Caller, Caps, ClientInfo, Cx, InterimSink, Role, Surface},
    dispatch::{Dispatched, dispatch},
    host::HelloInput,
    hub::{ConnInfo, EventPolicy, HubGuard, WireEvent},
    node::{self, Declared, NodeGuard, surface::Offer},
    pair::{self, Paired, Pairing, book::Claim, proof},
    random,
    tenant::Tenant,
};
use gateway_protocol::{
    ConnRole, ScopeSet,
    error::{DetailCode, RpcError},
    event::{ChallengePayload, TickPayload},
    frame::{self, ClientFrame, Close, FaultAnswer, Request},
    limits::{MAX_FRAME_BYTES, MAX_FRAMES_DURING_CONNECT, MAX_UNAUTHORIZED_CALLS},
    methods::connect::{AuthReason, ClientId, ClientMode, ConnectParams, ConnectRefusal},
    value::NonEmpty,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Beat,
    conn::{Call, CallKind, Link},
};
use crate::{
    http::{Ask, auth},
    limits::WS_CALLS_IN_FLIGHT,
    ws::out::TEXT,
};

/// What the codec knows of its connection.
pub(crate) struct V4 {
    ask: Ask,
    nonce: Box<str>,
    handshake_by_ms: u64,
    pub(crate) beat: Beat,
    /// A `connect` that is being decided, and the frames behind it.
    connecting: Option<Box<Connecting>>,
    open: Option<Open>,
}

struct Open {
    tenant: Arc<Tenant>,
    caller: Arc<Caller>,
    cancel: CancellationToken,
    wrong_role: u32,
    // Before the hub's: who is no node any more is asked nothing.
    _node: Option<NodeGuard>,
    _hub: HubGuard,
}

/// What was decided about a device.
type Decided = Arc<Mutex<Option<Result<Paired, ConnectRefusal>>>>;

struct Connecting {
    admission: Admission,
    decided: Decided,
    behind: VecDeque<Bytes>,
}

/// A `connect` whose credential is good.
struct Admission {
    params: ConnectParams,
    found: Authenticated,
    role: Role,
}

/// What a device may do and goes on by, or a client that is none.
struct Rights {
    scopes: ScopeSet,
    paired: Option<Paired>,
}

/// What comes next for a `connect` whose credential is good.
enum Next {
    Open(Rights),
    Device(Claim),
}

/// Whether somebody else signed the user in.
fn is_person(proof: &Proof) -> bool {
    matches!(proof, Proof::Login(_) | Proof::Proxied(_))
}

impl V4 {
    pub(crate) fn new(ask: Ask, now_ms: u64) -> Self {
        let handshake_by_ms = now_ms + ask.app.handshake_timeout_ms();
        Self {
            nonce: random::uuid(&*ask.app.host.shared().random).into(),
            ask,
            handshake_by_ms,
            beat: Beat::new(now_ms, u64::MAX / 4),
            connecting: None,
            open: None,
        }
    }

    /// The nonce is fresh for each socket, and each socket has one `connect`: a proof of identity is good once.
    pub(crate) fn open(&mut self, link: &mut Link) {
        let challenge = ChallengePayload {
            nonce: self.nonce.to_string(),
            ts: self.ask.app.now_ms(),
        };
        match serde_json::to_vec(&challenge) {
            Ok(payload) => link.text(frame::encode_targeted_event("connect.challenge", &payload)),
            Err(_) => link.close(Close::new(Close::INTERNAL, "")),
        }
    }

    pub(crate) fn message(&mut self, link: &mut Link, bytes: &Bytes) {
        if let Some(connecting) = &mut self.connecting {
            if connecting.behind.len() >= MAX_FRAMES_DURING_CONNECT {
                return link.close(Close::new(
                    Close::POLICY,
                    "too many pending handshake frames",
                ));
            }
            connecting.behind.push_back(bytes.clone());
            return;
        }
        match (ClientFrame::parse(bytes), &self.open) {
            (Ok(request), None) if request.method == "connect" => self.connect(link, &request),
            (Ok(request), None) => fault(link, frame::first_must_be_connect(request.id)),
            (Ok(request), Some(_)) => self.request(link, &request),
            (Err(bad), None) => fault(link, bad.when_fresh()),
            (Err(bad), Some(_)) => fault(link, bad.when_open()),
        }
    }

    fn connect(&mut self, link: &mut Link, request: &Request<'_>) {
        let id = request.id.get();
        let next = self
            .admission(request)
            .and_then(|admission| Ok((self.next(&admission)?, admission)));
        match next {
            Err(refusal) => self.connected(link, id, Err(refusal)),
            Ok((Next::Open(rights), admission)) => {
                let opened = self.enter(link, admission, rights);
                self.connected(link, id, opened);
            }
            Ok((Next::Device(claim), admission)) => {
                // Only this machine's own sockets, with no page and no proxy behind them, may be let in without a person.
                let local = self.ask.local() && self.ask.origin.is_none();
                let by_secret = !matches!(admission.found.proof, Proof::Device(_));
                let tenant = &admission.found.tenant;
                let pairing = match admission.found.proof {
                    Proof::Setup(code) => {
                        Pairing::Later(link.app.host.redeem(tenant, claim, code).boxed())
                    }
                    _ => link.app.host.pair(tenant, claim, local, by_secret),
                };
                match pairing {
                    Pairing::Now(decided) => {
                        let opened = decided
                            .and_then(|paired| self.enter(link, admission, Rights::of(paired)));
                        self.connected(link, id, opened);
                    }
                    Pairing::Later(work) => {
                        let decided = Decided::default();
                        let result = decided.clone();
                        self.connecting = Some(Box::new(Connecting {
                            admission,
                            decided,
                            behind: VecDeque::new(),
                        }));
                        link.calls.push(Call {
                            kind: CallKind::V4(id.into()),
                            waits: false,
                            future: work
                                .map(move |done| {
                                    *result.lock() = Some(done);
                                    Ok(Bytes::new())
                                })
                                .boxed(),
                        });
                    }
                }
            }
        }
    }

    /// The device was decided about: the connection is let in or refused, then comes what waited behind its `connect`.
    fn decided(&mut self, link: &mut Link, id: &str, connecting: Connecting) {
        let opened = match connecting.decided.lock().take() {
            Some(decided) => decided
                .and_then(|paired| self.enter(link, connecting.admission, Rights::of(paired))),
            None => Err(ConnectRefusal::closing(
                RpcError::unavailable("the connect was not decided"),
                Close::INTERNAL,
            )),
        };
        self.connected(link, id, opened);
        for bytes in connecting.behind {
            if link.closing() {
                return;
            }
            self.message(link, &bytes);
        }
    }

    fn connected(
        &mut self,
        link: &mut Link,
        id: &str,
        opened: Result<(Open, Bytes), ConnectRefusal>,
    ) {
        link.app.traffic.connect_ended(opened.is_ok());
        match opened {
            Ok((open, hello)) => {
                link.permit.authenticated();
                link.max_message = MAX_FRAME_BYTES;
                self.beat = Beat::new(link.now_ms, link.app.limits.ping_interval_ms);
                self.open = Some(open);
                self.answer(link, CallKind::V4(id.into()), Ok(hello));
            }
            Err(refusal) => {
                link.text(frame::encode_res_err(id, &refusal.error));
                link.close(refusal.close);
            }
        }
    }

    // The order of the checks is part of the protocol: start-up, version, role, (origin: before the upgrade), credential, then
    // the identity: whether one is needed, its proof, its approval.
    fn admission(&self, request: &Request<'_>) -> Result<Admission, ConnectRefusal> {
        let app = &self.ask.app;
        // The slow decoder is asked only for its words.
        let params = match request.params.and_then(ConnectParams::quick) {
            Some(params) => params,
            None => ConnectParams::parse(request.params)?,
        };
        if app.host.is_draining() {
            return Err(ConnectRefusal::draining(500));
        }
        if !app.ready() {
            return Err(ConnectRefusal::starting(500));
        }
        params.check_protocol()?;
        let role = match params.role()? {
            ConnRole::Operator => Role::Operator,
            ConnRole::Node => Role::Node,
        };
        let device = params.device.as_ref().map(|d| (d.id.as_str(), role));
        let found = auth::check_connect(&self.ask, params.auth.as_ref(), device)
            .map_err(|e| ConnectRefusal::closing(e, Close::POLICY))?;
        Ok(Admission {
            params,
            found,
            role,
        })
    }

    fn next(&self, admission: &Admission) -> Result<Next, ConnectRefusal> {
        let Admission {
            params,
            found,
            role,
        } = admission;
        let without = |scopes| {
            Ok(Next::Open(Rights {
                scopes,
                paired: None,
            }))
        };
        let now_ms = self.ask.app.now_ms();
        let proven = proof::verify(params, role.as_str(), &self.nonce, now_ms)
            .map_err(ConnectRefusal::proof)?;
        if is_person(&found.proof) && *role == Role::Operator {
            // A person that the tailnet or a proxy vouches for needs no device of their own.
            return without(self.scopes(params, *role, found));
        }
        let Some(device) = proven else {
            return match (role, params.client.id) {
                _ if matches!(found.proof, Proof::Setup(_)) => {
                    Err(ConnectRefusal::device_identity_required())
                }
                (_, ClientId::OpenclawControlUi) => {
                    Err(ConnectRefusal::control_ui_device_identity_required())
                }
                (Role::Node, _) => Err(ConnectRefusal::device_identity_required()),
                _ => without(self.scopes(params, *role, found)),
            };
        };
        let asked = ScopeSet::parse(params.scopes.iter().flatten().map(|s| s.as_str()));
        if matches!(found.proof, Proof::Device(_)) {
            if !asked.is_within(found.ceiling) && *role == Role::Operator {
                return Err(ConnectRefusal::unauthorized(
                    AuthReason::ScopeMismatch,
                    false,
                ));
            }
        } else if matches!(found.proof, Proof::Setup(_)) {
            // What it may ask for is fixed in the code.
        } else if params.client.mode == ClientMode::Probe {
            return without(ScopeSet::NONE);
        } else if *role == Role::Operator
            && self.ask.local()
            && self.ask.origin.is_none()
            && (params.client.id, params.client.mode)
                == (ClientId::GatewayClient, ClientMode::Backend)
        {
            // A program's helper on this machine is no device of its own.
            return without(self.scopes(params, *role, found));
        }
        let text = |t: &Option<NonEmpty>| t.as_ref().map(|s| s.as_str().to_owned());
        Ok(Next::Device(Claim {
            device_id: device.id,
            public_key: device.public_key,
            display_name: text(&params.client.display_name),
            platform: params.client.platform.as_str().to_owned(),
            device_family: text(&params.client.device_family),
            client_id: params.client.id.as_str(),
            client_mode: params.client.mode.as_str(),
            role: *role,
            scopes: asked,
            address: pair::address(self.ask.ip()),
        }))
    }

    fn enter(
        &self,
        link: &Link,
        admission: Admission,
        rights: Rights,
    ) -> Result<(Open, Bytes), ConnectRefusal> {
        let app = &self.ask.app;
        let Admission {
            params,
            found,
            role,
        } = admission;
        let scopes = rights.scopes;
        // A setup code is used up; the connection goes on by the token that it gave.
        let proof = match (found.proof, &rights.paired) {
            (Proof::Setup(_), Some(paired)) => Proof::Device(paired.pass.token),
            (proof, _) => proof,
        };
        let device = rights.paired.as_ref().map(|p| p.pass.clone());
        let id = app.host.new_conn_id();
        let client = ClientInfo {
            id: params.client.id.as_str(),
            mode: params.client.mode.as_str(),
            version: params.client.version.as_str().to_owned(),
            platform: params.client.platform.as_str().to_owned(),
            display_name: params
                .client
                .display_name
                .as_ref()
                .map(|s| s.as_str().to_owned()),
            device_family: params
                .client
                .device_family
                .as_ref()
                .map(|s| s.as_str().to_owned()),
            instance_id: params
                .client
                .instance_id
                .as_ref()
                .map(|s| s.as_str().to_owned()),
        };
        let caps = Caps::parse(params.caps.iter().flatten().map(|c| c.as_str()));
        let ip = Some(self.ask.ip());
        let caller = Arc::new(Caller {
            conn: Some(id.clone()),
            role,
            scopes,
            key: None,
            device: device.clone(),
            only_methods: None,
            caps,
            client: client.clone(),
            surface: Surface::V4,
            ip,
            credential: Some(proof.name(found.method)),
        });
        let info = ConnInfo {
            conn: id,
            role,
            proof,
            device,
            scopes,
            caps,
            client,
            ip,
            events: EventPolicy::Always,
            connected_at_ms: app.now_ms(),
        };
        let hub = app
            .host
            .register(&found.tenant, info.clone(), link.shared.clone())
            .map_err(|_| {
                let error = RpcError::new(DetailCode::Overloaded, "too many connections")
                    .retry_after_ms(1_000);
                ConnectRefusal::closing(error, Close::STARTING)
            })?;
        let node = node::attach(&found.tenant, &info, link.shared.clone(), declared(&params));
        let hello = app.host.hello_ok(&HelloInput {
            tenant: &found.tenant,
            conn: &info,
            auth_method: found.method,
            device: rights.paired.as_ref(),
        });
        let open = Open {
            tenant: found.tenant,
            caller,
            cancel: CancellationToken::new(),
            wrong_role: 0,
            _node: node,
            _hub: hub,
        };
        Ok((open, hello))
    }

    /// The scopes of a client that proved no device identity: the helper of a local program and the local command line keep what
    /// they ask for; everyone else who knows the secret gets in without scopes, and so does a probe.
    fn scopes(&self, params: &ConnectParams, role: Role, found: &Authenticated) -> ScopeSet {
        let asked = || ScopeSet::parse(params.scopes.iter().flatten().map(|s| s.as_str()));
        if role == Role::Operator && is_person(&found.proof) {
            return ScopeSet::effective(asked(), found.ceiling);
        }
        let local = self.ask.local() && self.ask.origin.is_none();
        let trusted = matches!(
            (params.client.id, params.client.mode),
            (ClientId::GatewayClient, ClientMode::Backend) | (ClientId::Cli, ClientMode::Cli)
        );
        if role != Role::Operator || !local || !trusted {
            return ScopeSet::NONE;
        }
        ScopeSet::effective(asked(), found.ceiling)
    }

    fn request(&mut self, link: &mut Link, request: &Request<'_>) {
        let Some(open) = &self.open else { return };
        let id = request.id.get();
        if link.calls.len() >= WS_CALLS_IN_FLIGHT {
            let error = RpcError::new(
                DetailCode::Overloaded,
                "too many calls at once on this connection",
            )
            .retry_after_ms(100);
            return self.answer(link, CallKind::V4(id.into()), Err(error));
        }
        let cx = Cx {
            tenant: open.tenant.clone(),
            caller: open.caller.clone(),
            cancel: open.cancel.clone(),
            interim: link
                .app
                .interim
                .contains(&*request.method)
                .then(|| interim(link, id)),
            traceparent: request.traceparent.as_deref().map(Into::into),
            idempotency: None,
            audit: Default::default(),
        };
        match dispatch(&link.app.host, cx, &request.method, request.params, false) {
            Dispatched::Ready(result) => self.answer(link, CallKind::V4(id.into()), result),
            Dispatched::Pending(future) => {
                let waits = link.app.waits.contains(&*request.method);
                link.calls.push(Call {
                    kind: CallKind::V4(id.into()),
                    waits,
                    future,
                });
            }
        }
    }

    pub(crate) fn answer(
        &mut self,
        link: &mut Link,
        kind: CallKind,
        result: Result<Bytes, RpcError>,
    ) {
        let CallKind::V4(id) = kind else { return };
        // Until it is open, a connection has no other call.
        if let Some(connecting) = self.connecting.take() {
            return self.decided(link, &id, *connecting);
        }
        match result {
            Ok(payload) => {
                if let Some(open) = &mut self.open {
                    open.wrong_role = 0;
                }
                let prefix = [
                    br#"{"type":"res","id":"#,
                    id.as_bytes(),
                    br#","ok":true,"payload":"#,
                ]
                .concat();
                link.out.message(TEXT, &prefix, &payload, b"}");
            }
            Err(error) => {
                link.text(frame::encode_res_err(&id, &error));
                let Some(open) = &mut self.open else { return };
                if error.detail != DetailCode::WrongRole {
                    open.wrong_role = 0;
                    return;
                }
                open.wrong_role += 1;
                if open.wrong_role > MAX_UNAUTHORIZED_CALLS {
                    link.close(Close::new(Close::POLICY, "repeated unauthorized calls"));
                }
            }
        }
    }

    pub(crate) fn event(&mut self, link: &mut Link, event: &WireEvent) {
        if self.open.is_none() {
            return;
        }
        if event.targeted {
            return link
                .out
                .message(TEXT, b"", &event.head, frame::EVENT_TAIL_TARGETED);
        }
        let mut tail = Vec::with_capacity(28);
        frame::push_event_tail(&mut tail, link.next_seq());
        link.out.message(TEXT, b"", &event.head, &tail);
    }

    fn own_event<T: serde::Serialize>(&mut self, link: &mut Link, name: &'static str, payload: &T) {
        if let Ok(payload) = serde_json::to_vec(payload) {
            let event = WireEvent {
                name,
                head: frame::event_head(name, &payload, None).into(),
                payload: Bytes::new(),
                drop_if_slow: false,
                targeted: false,
            };
            self.event(link, &event);
        }
    }

    pub(crate) fn tick(&mut self, link: &mut Link) {
        if self.open.is_none() {
            if link.now_ms >= self.handshake_by_ms {
                link.close(Close::new(Close::NORMAL, ""));
            }
            return;
        }
        if self.beat.round(link) {
            self.own_event(
                link,
                "tick",
                &TickPayload {
                    ts: link.app.now_ms(),
                },
            );
        }
    }

    pub(crate) fn due(&self) -> u64 {
        if self.open.is_some() {
            self.beat.due()
        } else {
            self.handshake_by_ms
        }
    }

    pub(crate) fn gone(&mut self) {
        if let Some(open) = self.open.take() {
            open.cancel.cancel();
        }
    }
}

impl Rights {
    fn of(paired: Paired) -> Self {
        Self {
            scopes: paired.scopes,
            paired: Some(paired),
        }
    }
}

/// What a node says of itself, besides who it is.
fn declared(params: &ConnectParams) -> Declared {
    let names = |list: &Option<Vec<NonEmpty>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|name| name.as_str().to_owned())
            .collect()
    };
    let (caps, commands) = (names(&params.caps), names(&params.commands));
    let permissions = params.permissions.iter().flatten();
    Declared {
        offer: Offer::declared(
            caps.iter().map(String::as_str),
            commands.iter().map(String::as_str),
            permissions.map(|(name, on)| (name.as_str(), *on)),
        ),
        path_env: params.path_env.clone(),
    }
}

fn fault(link: &mut Link, answer: FaultAnswer) {
    if let Some(response) = answer.response {
        link.text(response);
    }
    if let Some(close) = answer.close {
        link.close(close);
    }
}

/// Sends results that come before the final one under the id of the request.
fn interim(link: &Link, id: &str) -> InterimSink {
    let (shared, id) = (link.shared.clone(), Box::<str>::from(id));
    Arc::new(move |payload| shared.frame(frame::encode_res_ok(&id, &payload).into()))
}
