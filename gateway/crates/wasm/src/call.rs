//! One call of a guest: make an instance if there is none, run the export, take what was staged. Everything in here runs on
//! the guest threads.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Engine, Store, UpdateDeadline};

use crate::hook::{HookEvent, Verdict};
use crate::lanes::{Ctl, Tick};
use crate::limits::{self, LimitExceeded};
use crate::plugin::Plugin;
use crate::state::{
    self, Exchanges, GuestState, Phase, StateSpec, cut, extra_ok, fault_out, peer_out, printable,
    response_out,
};
use crate::types::{
    Action, CallError, Descriptor, Effects, GuestError, GuestEvent, HttpAnswer, Outbound, Receipt,
};
use crate::world::boot_v0_1::exports::gateway::boot::script;
use crate::world::channel_v0_1::exports::gateway::channel::adapter;
use crate::world::channel_v0_1::gateway::types::types as wit;
use crate::world::channel_v0_1::{Channel, ChannelPre};
use crate::world::hook_v0_1::exports::gateway::hook::policy;

/// Bytes of a trap's text.
const MAX_TRAP_TEXT: usize = 4 << 10;

/// An instance between calls.
pub(crate) struct Live {
    store: Store<GuestState>,
    guest: Channel,
    pub(crate) born: Instant,
    pub(crate) served: u32,
    /// What `save` last returned and was committed.
    pub(crate) saved: Vec<u8>,
    /// Its place among the live instances; given back after the Store.
    _place: OwnedSemaphorePermit,
}

impl Live {
    /// It was chosen to end, because the process runs out of memory.
    pub(crate) fn is_doomed(&self) -> bool {
        self.store.data().limiter.doomed().is_some()
    }
}

/// What to call.
pub(crate) enum Work {
    /// One call of `on-event` with all of them.
    Events(Vec<GuestEvent>),
    Send(Outbound),
    Edit(Receipt, Outbound),
}

/// What came of it.
pub(crate) enum Done {
    Actions(Vec<Action>),
    Receipt(Receipt),
}

/// What is needed to make an instance.
pub(crate) struct Birth {
    pub(crate) spec: StateSpec,
    pub(crate) config: Arc<str>,
    pub(crate) state: Vec<u8>,
    pub(crate) place: OwnedSemaphorePermit,
}

/// A new Store with all limits set.
fn store(engine: &Engine, spec: StateSpec) -> Store<GuestState> {
    let mut store = Store::new(engine, GuestState::new(spec));
    store.limiter(|s| &mut s.limiter);
    store.set_hostcall_fuel(limits::HOSTCALL_FUEL_BYTES);
    store.set_max_component_handles(limits::MAX_COMPONENT_HANDLES);
    store.epoch_deadline_callback(|cx| match cx.data().limiter.doomed() {
        Some(limit) => Err(wasmtime::Error::new(limit)),
        None => at_deadline(cx.data()),
    });
    store
}

/// What happens to a guest whose slice is over.
fn at_deadline(state: &GuestState) -> wasmtime::Result<UpdateDeadline> {
    match state.ctl.as_ref().map(|c| c.tick()) {
        Some(Tick::Continue(n)) => Ok(UpdateDeadline::Continue(n)),
        Some(Tick::Yield(n)) => Ok(UpdateDeadline::Yield(n)),
        Some(Tick::Stop(limit)) => Err(wasmtime::Error::new(limit)),
        None => Ok(UpdateDeadline::Interrupt),
    }
}

/// Why the guest ended badly. The library reports some limits as text only; each such text has a test.
fn classify(e: &wasmtime::Error, state: &GuestState) -> CallError {
    if let Some(limit) = e.downcast_ref::<LimitExceeded>() {
        return CallError::Limit(*limit);
    }
    if let Some(limit) = state.limiter.met {
        return CallError::Limit(limit);
    }
    let text = format!("{e:?}");
    if text.contains("too much data is being copied") {
        return CallError::Limit(LimitExceeded::new(
            "data of a host call",
            limits::HOSTCALL_FUEL_BYTES as u64,
            "bytes",
        ));
    }
    if text.contains("store handle limit exceeded") {
        return CallError::Limit(LimitExceeded::new(
            "handles",
            limits::MAX_COMPONENT_HANDLES as u64,
            "handles",
        ));
    }
    if matches!(
        e.downcast_ref::<wasmtime::Trap>(),
        Some(wasmtime::Trap::StackOverflow)
    ) {
        return CallError::Limit(LimitExceeded::new(
            "stack",
            limits::SMALL_WASM_STACK_BYTES as u64,
            "bytes",
        ));
    }
    let clean: String = text.lines().map(printable).collect::<Vec<_>>().join("\n");
    CallError::Trap(cut(&clean, MAX_TRAP_TEXT).to_owned())
}

pub(crate) fn error_in(e: wit::Error) -> GuestError {
    let t = |s: String| cut(&printable(&s), limits::MAX_SUMMARY_BYTES).to_owned();
    match e {
        wit::Error::Auth(s) => GuestError::Auth(t(s)),
        wit::Error::RateLimited(ms) => GuestError::RateLimited(ms),
        wit::Error::NotFound(s) => GuestError::NotFound(t(s)),
        wit::Error::TooLarge(s) => GuestError::TooLarge(t(s)),
        wit::Error::Invalid(s) => GuestError::Invalid(t(s)),
        wit::Error::Network(s) => GuestError::Network(t(s)),
        wit::Error::Unsupported(s) => GuestError::Unsupported(t(s)),
        wit::Error::Internal(s) => GuestError::Internal(t(s)),
    }
}

fn event_out(e: GuestEvent) -> adapter::Event {
    match e {
        GuestEvent::Started => adapter::Event::Started,
        GuestEvent::Wake => adapter::Event::Wake,
        GuestEvent::Webhook(w) => adapter::Event::Webhook(adapter::WebhookRequest {
            handle: w.handle,
            route: w.route,
            method: w.method,
            query: w.query,
            headers: w.headers,
            body: w.body,
            verified_by: w.verified_by,
        }),
        GuestEvent::HttpResult { id, tag, outcome } => {
            adapter::Event::HttpResult(adapter::HttpResult {
                id,
                tag,
                outcome: outcome.map(response_out).map_err(fault_out),
            })
        }
    }
}

fn outbound_out(m: Outbound) -> wit::Outbound {
    wit::Outbound {
        conversation: peer_out(m.conversation),
        text: m.text,
        reply_to: m.reply_to,
        run_id: m.run_id,
        part: m.part,
        revision: m.revision,
        is_final: m.is_final,
        hold: m.hold,
        extra: m.extra,
    }
}

fn receipt_out(r: Receipt) -> wit::Receipt {
    wit::Receipt {
        message_ids: r.message_ids,
        answer: r.answer.map(|a| wit::HttpAnswer {
            status: a.status,
            headers: a.headers,
            body: a.body,
        }),
        extra: r.extra,
    }
}

fn too_large<T>() -> Result<T, CallError> {
    Err(CallError::Limit(LimitExceeded::new(
        "output of an export",
        limits::MAX_EXPORT_OUTPUT_BYTES as u64,
        "bytes",
    )))
}

fn headers_size(h: &[(String, String)]) -> usize {
    h.iter().map(|(k, v)| k.len() + v.len()).sum()
}

fn answer_in(
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
) -> Result<HttpAnswer, CallError> {
    if !(200..=599).contains(&status) {
        return Err(CallError::Protocol(format!(
            "an answer's status is {status}"
        )));
    }
    if headers.len() > limits::MAX_HTTP_HEADERS {
        return Err(CallError::Limit(LimitExceeded::new(
            "answer headers",
            limits::MAX_HTTP_HEADERS as u64,
            "headers",
        )));
    }
    Ok(HttpAnswer {
        status,
        headers,
        body,
    })
}

fn actions_in(actions: Vec<adapter::Action>, state: &GuestState) -> Result<Vec<Action>, CallError> {
    if actions.len() > limits::MAX_ACTIONS {
        return Err(CallError::Limit(LimitExceeded::new(
            "actions",
            limits::MAX_ACTIONS as u64,
            "actions",
        )));
    }
    let mut size = 0;
    let mut seen = BTreeSet::new();
    let mut out = Vec::with_capacity(actions.len());
    for a in actions {
        let (handle, action) = match a {
            adapter::Action::Respond(r) => {
                size += r.body.len() + headers_size(&r.headers);
                (
                    r.handle.clone(),
                    Action::Respond {
                        handle: r.handle,
                        answer: answer_in(r.status, r.headers, r.body)?,
                    },
                )
            }
            adapter::Action::Hold(h) => (
                h.handle.clone(),
                Action::Hold {
                    handle: h.handle,
                    timeout_ms: h.timeout_ms.clamp(1, limits::MAX_HOLD_MS),
                },
            ),
        };
        if !state.knows(&handle) {
            return Err(CallError::Protocol(
                "an action names a handle that is not of this call".to_owned(),
            ));
        }
        if !seen.insert(handle) {
            return Err(CallError::Protocol(
                "two actions name the same handle".to_owned(),
            ));
        }
        out.push(action);
    }
    if size > limits::MAX_EXPORT_OUTPUT_BYTES {
        too_large()
    } else {
        Ok(out)
    }
}

fn receipt_in(r: wit::Receipt, held: bool) -> Result<Receipt, CallError> {
    let size = r.message_ids.iter().map(String::len).sum::<usize>()
        + r.answer
            .as_ref()
            .map_or(0, |a| a.body.len() + headers_size(&a.headers));
    if size > limits::MAX_EXPORT_OUTPUT_BYTES {
        return too_large();
    }
    if !extra_ok(&r.extra) {
        return Err(CallError::Limit(LimitExceeded::new(
            "extra",
            limits::MAX_EXTRA_BYTES as u64,
            "bytes",
        )));
    }
    if r.message_ids.len() > limits::MAX_EMITS_PER_CALL
        || r.message_ids.iter().any(|i| i.len() > limits::MAX_ID_BYTES)
    {
        return Err(CallError::Limit(LimitExceeded::new(
            "message ids",
            limits::MAX_EMITS_PER_CALL as u64,
            "ids",
        )));
    }
    match (&r.answer, held) {
        (None, true) => {
            return Err(CallError::Protocol(
                "the reply to a held request has no answer".to_owned(),
            ));
        }
        (Some(_), false) => {
            return Err(CallError::Protocol(
                "there is an answer and no held request".to_owned(),
            ));
        }
        _ => {}
    }
    let answer = r
        .answer
        .map(|a| answer_in(a.status, a.headers, a.body))
        .transpose()?;
    Ok(Receipt {
        message_ids: r.message_ids,
        answer,
        extra: r.extra,
    })
}

/// Makes an instance and calls `init`.
async fn born(plugin: &Plugin, birth: Birth, ctl: &Arc<Ctl>) -> Result<Live, CallError> {
    let pre = plugin
        .channel()
        .ok_or_else(|| CallError::Instantiate("not a channel".to_owned()))?;
    let mut store = store(plugin.engine(), birth.spec);
    store
        .data_mut()
        .begin(ctl.clone(), Arc::default(), BTreeSet::new());
    store.data_mut().phase(Phase::Init);
    store.set_epoch_deadline(limits::FAST_SLICE_TICKS);
    let guest = match pre.instantiate_async(&mut store).await {
        Ok(g) => g,
        Err(e) => {
            return Err(match classify(&e, store.data()) {
                CallError::Trap(t) => CallError::Instantiate(t),
                other => other,
            });
        }
    };
    match guest
        .gateway_channel_adapter()
        .call_init(&mut store, &birth.config, &birth.state)
        .await
    {
        Ok(Ok(())) => {}
        // The configuration is not to the guest's liking: an operator's matter, but the account can't run.
        Ok(Err(e)) => return Err(CallError::Instantiate(format!("init: {}", error_in(e)))),
        Err(e) => return Err(classify(&e, store.data())),
    }
    Ok(Live {
        store,
        guest,
        born: Instant::now(),
        served: 0,
        saved: birth.state,
        _place: birth.place,
    })
}

/// Runs one piece of work. The instance comes back if it may be used again.
pub(crate) async fn run(
    plugin: Arc<Plugin>,
    live: Result<Live, Birth>,
    work: Work,
    ctl: Arc<Ctl>,
    exchanges: Arc<Exchanges>,
) -> (Option<Live>, Result<(Done, Effects), CallError>) {
    let mut live = match live {
        Ok(live) => live,
        Err(birth) => match born(&plugin, birth, &ctl).await {
            Ok(live) => live,
            Err(e) => return (None, Err(e)),
        },
    };
    live.served += 1;
    let result = work_on(&mut live, work, ctl, exchanges).await;
    match result {
        Ok(done) => (Some(live), Ok(done)),
        // What the guest remembers of a call whose effects are discarded is wrong from now on: the instance goes as well.
        Err(e) => (None, Err(e)),
    }
}

/// Sends that are run one after the other in one turn on a guest thread. Shared with whoever waits for them, so that
/// what has ended is not lost where the turn is cut off.
pub(crate) struct Sends<R> {
    /// Not begun.
    pub(crate) waiting: VecDeque<(Work, R)>,
    /// Begun, in order.
    pub(crate) begun: Vec<(R, Arc<Exchanges>)>,
    /// Results of the first ones of `begun`.
    pub(crate) ended: Vec<Result<(Done, Effects), CallError>>,
}

/// Runs sends until none waits, one fails, or the turn has been long enough. The instance comes back if it may be used
/// again.
pub(crate) async fn run_sends<R: Send>(
    plugin: Arc<Plugin>,
    live: Result<Live, Birth>,
    sends: Arc<Mutex<Sends<R>>>,
    ctl: Arc<Ctl>,
) -> Option<Live> {
    let mut live = Some(live);
    let turn = Instant::now();
    loop {
        let (work, exchanges) = {
            let mut sends = sends.lock();
            let Some((work, who)) = sends.waiting.pop_front() else {
                break;
            };
            let exchanges: Arc<Exchanges> = Arc::default();
            sends.begun.push((who, exchanges.clone()));
            (work, exchanges)
        };
        let with = live.take()?;
        let (back, result) = run(plugin.clone(), with, work, ctl.clone(), exchanges).await;
        sends.lock().ended.push(result);
        live = Some(Ok(back?));
        if !ctl.has_time(turn) {
            break;
        }
        ctl.next_call();
    }
    live.and_then(Result::ok)
}

async fn work_on(
    live: &mut Live,
    work: Work,
    ctl: Arc<Ctl>,
    exchanges: Arc<Exchanges>,
) -> Result<(Done, Effects), CallError> {
    let handles = match &work {
        Work::Events(events) => events
            .iter()
            .filter_map(|event| match event {
                GuestEvent::Webhook(w) => Some(w.handle.clone()),
                _ => None,
            })
            .collect(),
        _ => BTreeSet::new(),
    };
    let store = &mut live.store;
    store.data_mut().begin(ctl, exchanges, handles);
    store.set_epoch_deadline(limits::FAST_SLICE_TICKS);
    let guest = live.guest.gateway_channel_adapter();
    let (done, consumed) = match work {
        Work::Events(events) => {
            store.data_mut().phase(Phase::Event);
            let references = events.iter().map(GuestEvent::reference).collect();
            let events: Vec<_> = events.into_iter().map(event_out).collect();
            match guest.call_on_event(&mut *store, &events).await {
                Ok(Ok(actions)) => (
                    Done::Actions(actions_in(actions, store.data())?),
                    references,
                ),
                Ok(Err(e)) => return Err(CallError::Guest(error_in(e))),
                Err(e) => return Err(classify(&e, store.data())),
            }
        }
        Work::Send(message) => {
            store.data_mut().phase(Phase::Send);
            let held = message.hold.is_some();
            match guest.call_send(&mut *store, &outbound_out(message)).await {
                Ok(Ok(receipt)) => (Done::Receipt(receipt_in(receipt, held)?), Vec::new()),
                Ok(Err(e)) => return Err(CallError::Guest(error_in(e))),
                Err(e) => return Err(classify(&e, store.data())),
            }
        }
        Work::Edit(receipt, message) => {
            store.data_mut().phase(Phase::Send);
            let held = message.hold.is_some();
            match guest
                .call_edit(&mut *store, &receipt_out(receipt), &outbound_out(message))
                .await
            {
                Ok(Ok(receipt)) => (Done::Receipt(receipt_in(receipt, held)?), Vec::new()),
                Ok(Err(e)) => return Err(CallError::Guest(error_in(e))),
                Err(e) => return Err(classify(&e, store.data())),
            }
        }
    };
    store.data_mut().phase(Phase::Save);
    let saved = match guest.call_save(&mut *store).await {
        Ok(Ok(bytes)) if bytes.len() > limits::MAX_STATE_BYTES => {
            return Err(CallError::Limit(LimitExceeded::new(
                "saved state",
                limits::MAX_STATE_BYTES as u64,
                "bytes",
            )));
        }
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) => return Err(CallError::Guest(error_in(e))),
        Err(e) => return Err(classify(&e, store.data())),
    };
    let mut fx = store.data_mut().take();
    if saved != live.saved {
        live.saved.clone_from(&saved);
        fx.state = Some(saved);
    }
    fx.consumed = consumed;
    if let Done::Actions(actions) = &done {
        fx.actions.clone_from(actions);
    }
    Ok((done, fx))
}

/// Calls `describe` in a throw-away instance without any host function.
pub(crate) async fn describe(
    engine: &Engine,
    pre: &ChannelPre<GuestState>,
    spec: StateSpec,
    ctl: Arc<Ctl>,
) -> Result<Descriptor, CallError> {
    let mut store = store(engine, spec);
    store.data_mut().begin(ctl, Arc::default(), BTreeSet::new());
    store.data_mut().phase(Phase::Describe);
    store.set_epoch_deadline(limits::FAST_SLICE_TICKS);
    let guest = pre
        .instantiate_async(&mut store)
        .await
        .map_err(|e| classify(&e, store.data()))?;
    let d = match guest
        .gateway_channel_adapter()
        .call_describe(&mut store)
        .await
    {
        Ok(Ok(d)) => d,
        Ok(Err(e)) => return Err(CallError::Guest(error_in(e))),
        Err(e) => return Err(classify(&e, store.data())),
    };
    if d.routes.len() > limits::MAX_ACTIONS
        || d.routes.iter().any(|r| r.len() > 64)
        || d.name.len() > limits::MAX_ID_BYTES
        || !extra_ok(&d.extra)
    {
        return Err(CallError::Protocol(
            "the descriptor is too large".to_owned(),
        ));
    }
    Ok(Descriptor {
        name: printable(&d.name),
        max_text_bytes: d.max_text_bytes,
        can_edit: d.can_edit,
        routes: d.routes,
        extra: d.extra,
    })
}

/// Runs a boot script.
pub(crate) async fn boot(
    plugin: &Plugin,
    spec: StateSpec,
    ctl: Arc<Ctl>,
    context: script::Context,
) -> Result<(script::Report, Effects), CallError> {
    let pre = plugin
        .boot()
        .ok_or_else(|| CallError::Instantiate("not a boot script".to_owned()))?;
    let mut store = store(plugin.engine(), spec);
    store.data_mut().begin(ctl, Arc::default(), BTreeSet::new());
    store.data_mut().phase(Phase::Boot);
    store.set_epoch_deadline(limits::FAST_SLICE_TICKS);
    let guest = pre
        .instantiate_async(&mut store)
        .await
        .map_err(|e| classify(&e, store.data()))?;
    let mut report = match guest
        .gateway_boot_script()
        .call_run(&mut store, &context)
        .await
    {
        Ok(Ok(r)) => r,
        Ok(Err(e)) => return Err(CallError::Guest(error_in(e))),
        Err(e) => return Err(classify(&e, store.data())),
    };
    if !extra_ok(&report.extra) {
        return Err(CallError::Limit(LimitExceeded::new(
            "extra",
            limits::MAX_EXTRA_BYTES as u64,
            "bytes",
        )));
    }
    report.summary = cut(
        &state::printable(&report.summary),
        limits::MAX_SUMMARY_BYTES,
    )
    .to_owned();
    Ok((report, store.data_mut().take()))
}

/// Asks a hook.
pub(crate) async fn hook(
    plugin: &Plugin,
    spec: StateSpec,
    ctl: Arc<Ctl>,
    event: HookEvent,
) -> Result<Verdict, CallError> {
    let pre = plugin
        .hook()
        .ok_or_else(|| CallError::Instantiate("not a hook".to_owned()))?;
    let mut store = store(plugin.engine(), spec);
    store.data_mut().begin(ctl, Arc::default(), BTreeSet::new());
    store.data_mut().phase(Phase::Hook);
    store.set_epoch_deadline(limits::FAST_SLICE_TICKS);
    let guest = pre
        .instantiate_async(&mut store)
        .await
        .map_err(|e| classify(&e, store.data()))?;
    let judged = guest
        .gateway_hook_policy()
        .call_judge(&mut store, &hook_event_out(event))
        .await;
    match judged {
        Ok(Ok(policy::Verdict::Pass)) => Ok(Verdict::Pass),
        Ok(Ok(policy::Verdict::Annotate(extra))) if extra_ok(&extra) => {
            Ok(Verdict::Annotate(extra))
        }
        Ok(Ok(policy::Verdict::Annotate(_))) => Err(CallError::Limit(LimitExceeded::new(
            "extra",
            limits::MAX_EXTRA_BYTES as u64,
            "bytes",
        ))),
        Ok(Ok(policy::Verdict::Deny(why))) => Ok(Verdict::Deny(
            cut(
                &printable(cut(&why, limits::MAX_SUMMARY_BYTES)),
                limits::MAX_SUMMARY_BYTES,
            )
            .to_owned(),
        )),
        Ok(Err(e)) => Err(CallError::Guest(error_in(e))),
        Err(e) => Err(classify(&e, store.data())),
    }
}

fn hook_event_out(event: HookEvent) -> policy::Event {
    match event {
        HookEvent::MessageInbound(e) => policy::Event::MessageInbound(policy::InboundEvent {
            channel: e.channel,
            account: e.account,
            platform_message_id: e.platform_message_id,
            conversation: peer_out(e.conversation),
            sender: wit::Sender {
                id: e.sender.id,
                display_name: e.sender.display_name,
                is_bot: e.sender.is_bot,
            },
            text: e.text,
            mentioned: e.mentioned,
            agent: e.agent,
            session_key: e.session_key,
        }),
        HookEvent::ToolCall(e) => policy::Event::ToolCall(policy::ToolEvent {
            session_key: e.session_key,
            run_id: e.run_id,
            tool: e.tool,
            arguments: e.arguments,
        }),
        HookEvent::MessageOutbound(e) => policy::Event::MessageOutbound(policy::OutboundEvent {
            channel: e.channel,
            account: e.account,
            conversation: peer_out(e.conversation),
            run_id: e.run_id,
            part: e.part,
            is_final: e.is_final,
            text: e.text,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::time::Duration;

    use super::*;
    use crate::lanes::Lanes;
    use crate::manifest::Class;
    use crate::state::Io;

    fn spec() -> StateSpec {
        StateSpec {
            io: Io::Nobody,
            rt: None,
            memory: 8 << 20,
            held: crate::memory::Instances::default().add(String::new()),
            log: Arc::default(),
            log_per_min: 1,
            log_name: Arc::from("test"),
            methods: Arc::from([]),
        }
    }

    /// A component that does all of its harm while it is instantiated.
    async fn harm(wat: &str) -> CallError {
        let engine = crate::engine::engine(Class::Small, 4).unwrap();
        let lanes = Lanes::start(1, 1, vec![engine.clone()]).unwrap();
        let component =
            wasmtime::component::Component::new(&engine, wat::parse_str(wat).unwrap()).unwrap();
        let pre = wasmtime::component::Linker::<GuestState>::new(&engine)
            .instantiate_pre(&component)
            .unwrap();
        let run = lanes.run(
            Arc::from("t"),
            Duration::from_secs(20),
            Duration::from_millis(100),
            move |ctl| async move {
                let mut store = store(&engine, spec());
                store.data_mut().begin(ctl, Arc::default(), BTreeSet::new());
                store.set_epoch_deadline(limits::FAST_SLICE_TICKS);
                match pre.instantiate_async(&mut store).await {
                    Ok(_) => panic!("the harm was not seen"),
                    Err(e) => classify(&e, store.data()),
                }
            },
        );
        run.await.unwrap()
    }

    /// Covers: W3, F15.
    #[tokio::test]
    async fn a_handle_bomb_is_a_named_limit() {
        let e = harm(
            r#"(component
                (type $r (resource (rep i32)))
                (core func $new (canon resource.new $r))
                (core module $m
                  (import "" "new" (func $new (param i32) (result i32)))
                  (func $bomb (loop $l (drop (call $new (i32.const 1))) (br $l)))
                  (start $bomb))
                (core instance (instantiate $m (with "" (instance (export "new" (func $new))))))
            )"#,
        )
        .await;
        assert_eq!(
            e,
            CallError::Limit(LimitExceeded::new(
                "handles",
                limits::MAX_COMPONENT_HANDLES as u64,
                "handles"
            ))
        );
    }

    /// Covers: W5.
    #[tokio::test]
    async fn a_start_function_that_loops_is_ended() {
        let e = harm(r#"(component (core module $m (func $f (loop $l (br $l))) (start $f)) (core instance (instantiate $m)))"#).await;
        assert_eq!(
            e,
            CallError::Limit(LimitExceeded::new("cpu time of a call", 100, "ms"))
        );
    }

    /// Memories are summed: two that are each within the limit are not together.
    /// Covers: F15.
    #[tokio::test]
    async fn memories_are_summed() {
        let e = harm(
            r#"(component
                (core module $m (memory 100) (func $f (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))) (start $f))
                (core instance (instantiate $m)) (core instance (instantiate $m)))"#,
        )
        .await;
        assert_eq!(
            e,
            CallError::Limit(LimitExceeded::new("memory", 8 << 20, "bytes"))
        );
    }
}
