//! What a Store holds, and the host functions that guests call. Only `linker` decides which of them a guest has.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{ResourceLimiter, Result};

use crate::host::{AccountHost, BootHost, HookHost};
use crate::lanes::Ctl;
use crate::limits::{self, LimitExceeded};
use crate::manifest::{Capability, World};
use crate::memory::Held;
use crate::types::{
    self as ty, Effects, FaultKind, GuestRequest, GuestResponse, HostError, HttpFault, KvWrite,
    Level, Submit, WakeChange,
};
use crate::world::boot_v0_1::gateway::host::gateway_call;
use crate::world::channel_v0_1::gateway::host::{
    clock, config, http, inbound, kv, log, random, timer,
};
use crate::world::channel_v0_1::gateway::types::{http_types, types as wit};

/// Who the guest works for.
#[derive(Clone)]
pub(crate) enum Io {
    /// Nobody: `describe` at load.
    Nobody,
    /// An account of a channel.
    Account(Arc<dyn AccountHost>),
    /// A boot script.
    Boot(Arc<dyn BootHost>),
    /// A hook.
    Hook(Arc<dyn HookHost>),
}

impl Io {
    /// Whose the instance is.
    pub(crate) fn tenant(&self) -> &str {
        match self {
            Self::Nobody => "-",
            Self::Account(io) => io.tenant(),
            Self::Boot(io) => io.tenant(),
            Self::Hook(io) => io.tenant(),
        }
    }
}

/// Which export runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Describe,
    Init,
    Event,
    Send,
    Save,
    Boot,
    Hook,
}

/// One HTTP exchange of a call, kept where it survives the Store.
struct Exchange {
    sent: Arc<AtomicBool>,
    /// The host's part has ended. Until then nobody knows what leaves next.
    ended: bool,
    /// Status of the full answer.
    answered: Option<u16>,
}

impl Exchange {
    fn may_have_left(&self) -> bool {
        !self.ended || self.answered.is_some() || self.sent.load(Ordering::Acquire)
    }
}

/// The HTTP exchanges of a call.
#[derive(Default)]
pub(crate) struct Exchanges(Mutex<Vec<Exchange>>);

impl Exchanges {
    fn end(&self, index: usize, answered: Option<u16>) {
        if let Some(x) = self.0.lock().get_mut(index) {
            x.ended = true;
            x.answered = answered;
        }
    }

    /// A request left the host and its full answer never came; or what answered was a gateway that does not know whether the
    /// platform did it.
    pub(crate) fn uncertain(&self) -> bool {
        self.0.lock().iter().any(|x| match x.answered {
            None => x.may_have_left(),
            Some(status) => status == 502 || status == 504,
        })
    }

    /// Any request may have left the host.
    pub(crate) fn any_sent(&self) -> bool {
        self.0.lock().iter().any(Exchange::may_have_left)
    }
}

/// Log lines of an account in the minute; outlives instances.
#[derive(Default)]
pub(crate) struct LogBudget {
    minute: AtomicU64,
    lines: AtomicU32,
    dropped: AtomicU64,
}

impl LogBudget {
    /// Whether a line may be written, and how many were dropped in the minute before (told once).
    fn take(&self, minute: u64, per_min: u32) -> (bool, u64) {
        if self.minute.swap(minute, Ordering::Relaxed) != minute {
            self.lines.store(0, Ordering::Relaxed);
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            self.lines.store(1, Ordering::Relaxed);
            return (per_min > 0, dropped);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < per_min {
            (true, 0)
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            (false, 0)
        }
    }
}

/// Sums what all memories and tables of an instance take.
pub(crate) struct Limiter {
    held: Arc<Held>,
    memory: usize,
    memory_max: usize,
    tables: usize,
    /// The limit that was met, if one was: names it when the guest traps because of it.
    pub(crate) met: Option<LimitExceeded>,
}

impl Limiter {
    pub(crate) fn new(memory_max: usize, held: Arc<Held>) -> Self {
        Self {
            held,
            memory: 0,
            memory_max,
            tables: 0,
            met: None,
        }
    }

    /// The instance was chosen to end, because the process runs out of memory.
    pub(crate) fn doomed(&self) -> Option<LimitExceeded> {
        self.held
            .is_doomed()
            .then(|| LimitExceeded::new("memory of the whole process", self.memory as u64, "bytes"))
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        let sum = self.memory.saturating_sub(current).saturating_add(desired);
        if let Some(limit) = self.doomed() {
            self.met = Some(limit);
            return Ok(false);
        }
        if sum > self.memory_max {
            self.met = Some(LimitExceeded::new(
                "memory",
                self.memory_max as u64,
                "bytes",
            ));
            return Ok(false);
        }
        self.memory = sum;
        self.held.set(sum);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        let sum = self.tables.saturating_sub(current).saturating_add(desired);
        if sum > limits::MAX_TABLE_ELEMENTS {
            self.met = Some(LimitExceeded::new(
                "table elements",
                limits::MAX_TABLE_ELEMENTS as u64,
                "elements",
            ));
            return Ok(false);
        }
        self.tables = sum;
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        limits::MAX_TABLES
    }

    fn memories(&self) -> usize {
        limits::MAX_MEMORIES
    }
}

/// What one call has done so far.
#[derive(Default)]
struct Staged {
    emits: Vec<ty::InboundMessage>,
    emitted: BTreeSet<(String, Option<String>, String)>,
    kv: BTreeMap<String, Option<Vec<u8>>>,
    kv_bytes: usize,
    wake: Option<WakeChange>,
    submits: Vec<Submit>,
}

/// Data of a Store. Dropped with it.
pub(crate) struct GuestState {
    pub(crate) io: Io,
    /// Where host futures run. `None` only for `describe`.
    rt: Option<Handle>,
    pub(crate) limiter: Limiter,
    log: Arc<LogBudget>,
    log_per_min: u32,
    log_name: Arc<str>,
    methods: Arc<[String]>,
    /// The call that runs.
    pub(crate) ctl: Option<Arc<Ctl>>,
    phase: Phase,
    host_calls: u32,
    http_calls: u32,
    gateway_calls: u32,
    exchanges: Arc<Exchanges>,
    /// Webhook handles of the events of this call: the only ones that the guest may name.
    handles: BTreeSet<String>,
    staged: Staged,
}

/// What is needed to make a [`GuestState`].
pub(crate) struct StateSpec {
    pub(crate) io: Io,
    pub(crate) rt: Option<Handle>,
    pub(crate) memory: usize,
    pub(crate) held: Arc<Held>,
    pub(crate) log: Arc<LogBudget>,
    pub(crate) log_per_min: u32,
    pub(crate) log_name: Arc<str>,
    pub(crate) methods: Arc<[String]>,
}

impl GuestState {
    pub(crate) fn new(spec: StateSpec) -> Self {
        Self {
            io: spec.io,
            rt: spec.rt,
            limiter: Limiter::new(spec.memory, spec.held),
            log: spec.log,
            log_per_min: spec.log_per_min,
            log_name: spec.log_name,
            methods: spec.methods,
            ctl: None,
            phase: Phase::Describe,
            host_calls: 0,
            http_calls: 0,
            gateway_calls: 0,
            exchanges: Arc::default(),
            handles: BTreeSet::new(),
            staged: Staged::default(),
        }
    }

    /// Begins a call: nothing of an earlier one is left.
    pub(crate) fn begin(
        &mut self,
        ctl: Arc<Ctl>,
        exchanges: Arc<Exchanges>,
        handles: BTreeSet<String>,
    ) {
        self.ctl = Some(ctl);
        self.exchanges = exchanges;
        self.handles = handles;
        self.host_calls = 0;
        self.http_calls = 0;
        self.gateway_calls = 0;
        self.staged = Staged::default();
        self.limiter.met = None;
    }

    /// Says which export runs next in the call.
    pub(crate) fn phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Whether `handle` names a webhook request of this call.
    pub(crate) fn knows(&self, handle: &str) -> bool {
        self.handles.contains(handle)
    }

    /// Takes what was staged.
    pub(crate) fn take(&mut self) -> Effects {
        let s = std::mem::take(&mut self.staged);
        Effects {
            emits: s.emits,
            kv: s
                .kv
                .into_iter()
                .map(|(key, value)| KvWrite { key, value })
                .collect(),
            wake: s.wake,
            submits: s.submits,
            ..Effects::default()
        }
    }

    /// At the begin of each host function.
    fn enter(&mut self) -> Result<()> {
        self.host_calls += 1;
        if self.host_calls > limits::MAX_HOST_CALLS {
            return self.over(LimitExceeded::new(
                "host calls of a call",
                u64::from(limits::MAX_HOST_CALLS),
                "calls",
            ));
        }
        Ok(())
    }

    /// Ends the call because of a limit.
    fn over<T>(&mut self, limit: LimitExceeded) -> Result<T> {
        self.limiter.met = Some(limit);
        Err(wasmtime::Error::new(limit))
    }

    fn account(&self) -> Result<Arc<dyn AccountHost>> {
        match &self.io {
            Io::Account(a) => Ok(a.clone()),
            Io::Nobody | Io::Boot(_) | Io::Hook(_) => Err(wasmtime::Error::msg(
                "host functions may not be called here",
            )),
        }
    }

    /// Runs a future of the host on the host's runtime. If the guest is ended while it waits, the future is dropped.
    async fn on_host<T: Send + 'static>(
        &self,
        f: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let Some(rt) = &self.rt else {
            return Err(wasmtime::Error::msg(
                "host functions may not be called here",
            ));
        };
        let task = AbortOnDrop(rt.spawn(f));
        let mut task = std::pin::pin!(task);
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut task.0).poll(cx))
            .await
            .map_err(|e| wasmtime::Error::msg(format!("the host's part failed: {e}")))
    }

    fn write_log(&self, level: Level, line: &str) {
        match &self.io {
            Io::Account(a) => a.log(level, line),
            Io::Boot(b) => b.log(level, line),
            Io::Hook(h) => h.log(level, line),
            Io::Nobody => tracing::debug!(plugin = &*self.log_name, "{line}"),
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A linker with exactly the granted interfaces. Linking is the permission.
pub(crate) fn linker(
    engine: &wasmtime::Engine,
    world: World,
    granted: &BTreeSet<Capability>,
) -> Result<Linker<GuestState>> {
    type S = HasSelf<GuestState>;
    let mut l = Linker::new(engine);
    // Types only: no function, no right.
    wit::add_to_linker::<_, S>(&mut l, |s| s)?;
    http_types::add_to_linker::<_, S>(&mut l, |s| s)?;
    for c in granted.iter().filter(|c| world.offers().contains(c)) {
        match c {
            Capability::Log => log::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Clock => clock::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Random => random::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Config => config::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Kv => kv::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Http => http::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Inbound => inbound::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::Timer => timer::add_to_linker::<_, S>(&mut l, |s| s)?,
            Capability::GatewayCall => gateway_call::add_to_linker::<_, S>(&mut l, |s| s)?,
        }
    }
    Ok(l)
}

impl wit::Host for GuestState {}
impl http_types::Host for GuestState {}

/// At most `max` bytes of `s`, at a character's border.
pub(crate) fn cut(s: &str, max: usize) -> &str {
    &s[..s.floor_char_boundary(max)]
}

/// Control characters (line breaks, terminal escapes, bidi overrides) made harmless.
pub(crate) fn printable(s: &str) -> String {
    s.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') { '\u{fffd}' } else { c }).collect()
}

impl log::Host for GuestState {
    fn log(&mut self, level: log::Level, line: String) -> Result<()> {
        self.enter()?;
        let minute = match &self.io {
            Io::Account(a) => a.monotonic_ms() / 60_000,
            Io::Hook(h) => h.monotonic_ms() / 60_000,
            Io::Boot(_) | Io::Nobody => 0,
        };
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        let (may, dropped) = self.log.take(minute, self.log_per_min);
        if dropped > 0 {
            self.write_log(
                Level::Warn,
                &format!(
                    "{dropped} log lines of the guest were dropped (limit {} a minute)",
                    self.log_per_min
                ),
            );
        }
        if may {
            self.write_log(
                level,
                cut(
                    &printable(cut(&line, limits::MAX_LOG_LINE_BYTES)),
                    limits::MAX_LOG_LINE_BYTES,
                ),
            );
        }
        Ok(())
    }
}

impl clock::Host for GuestState {
    fn now_ms(&mut self) -> Result<i64> {
        self.enter()?;
        Ok(self.account()?.now_ms())
    }

    fn monotonic_ms(&mut self) -> Result<i64> {
        self.enter()?;
        Ok(i64::try_from(self.account()?.monotonic_ms()).unwrap_or(i64::MAX))
    }
}

impl random::Host for GuestState {
    fn bytes(&mut self, n: u32) -> Result<Vec<u8>> {
        self.enter()?;
        if n > limits::MAX_RANDOM_BYTES {
            return self.over(LimitExceeded::new(
                "random",
                u64::from(limits::MAX_RANDOM_BYTES),
                "bytes",
            ));
        }
        Ok(self.account()?.random(n as usize))
    }
}

impl config::Host for GuestState {
    fn get(&mut self) -> Result<String> {
        self.enter()?;
        match &self.io {
            Io::Account(a) => Ok(a.config_json().to_string()),
            Io::Boot(b) => Ok(b.config_json().to_string()),
            Io::Hook(h) => Ok(h.config_json().to_string()),
            Io::Nobody => Err(wasmtime::Error::msg(
                "host functions may not be called here",
            )),
        }
    }
}

fn kv_key(key: &str) -> std::result::Result<(), kv::Error> {
    if key.is_empty() || key.len() > limits::MAX_KV_KEY_BYTES || key.chars().any(char::is_control) {
        return Err(kv::Error::InvalidKey(format!(
            "a key is 1 to {} bytes without control characters",
            limits::MAX_KV_KEY_BYTES
        )));
    }
    Ok(())
}

fn kv_error(e: HostError) -> kv::Error {
    match e {
        HostError::Limit(t) => kv::Error::Limit(t),
        HostError::Unavailable(t) | HostError::Internal(t) => kv::Error::Internal(t),
    }
}

impl GuestState {
    fn kv_stage(
        &mut self,
        key: String,
        value: Option<Vec<u8>>,
    ) -> std::result::Result<(), kv::Error> {
        kv_key(&key)?;
        let size = value.as_ref().map_or(0, Vec::len);
        if size > limits::MAX_KV_VALUE_BYTES {
            return Err(kv::Error::Limit(
                LimitExceeded::new("kv value", limits::MAX_KV_VALUE_BYTES as u64, "bytes")
                    .to_string(),
            ));
        }
        let size = size + key.len();
        if self.staged.kv_bytes + size > limits::MAX_KV_STAGED_BYTES {
            return Err(kv::Error::Limit(
                LimitExceeded::new(
                    "kv writes of a call",
                    limits::MAX_KV_STAGED_BYTES as u64,
                    "bytes",
                )
                .to_string(),
            ));
        }
        // Overwritten values are counted too: the sum bounds work as well as memory.
        self.staged.kv_bytes += size;
        self.staged.kv.insert(key, value);
        Ok(())
    }
}

impl kv::Host for GuestState {
    async fn get(
        &mut self,
        key: String,
    ) -> Result<std::result::Result<Option<Vec<u8>>, kv::Error>> {
        self.enter()?;
        if let Err(e) = kv_key(&key) {
            return Ok(Err(e));
        }
        if let Some(staged) = self.staged.kv.get(&key) {
            return Ok(Ok(staged.clone()));
        }
        let got = match self.io.clone() {
            Io::Account(a) => self.on_host(async move { a.kv_get(key).await }).await?,
            Io::Boot(b) => self.on_host(async move { b.kv_get(key).await }).await?,
            Io::Nobody | Io::Hook(_) => {
                return Err(wasmtime::Error::msg(
                    "host functions may not be called here",
                ));
            }
        };
        Ok(got.map_err(kv_error))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<std::result::Result<(), kv::Error>> {
        self.enter()?;
        Ok(self.kv_stage(key, Some(value)))
    }

    fn delete(&mut self, key: String) -> Result<std::result::Result<(), kv::Error>> {
        self.enter()?;
        Ok(self.kv_stage(key, None))
    }

    async fn list(
        &mut self,
        prefix: String,
    ) -> Result<std::result::Result<Vec<String>, kv::Error>> {
        self.enter()?;
        if prefix.len() > limits::MAX_KV_KEY_BYTES {
            return Ok(Err(kv::Error::InvalidKey(format!(
                "a prefix is at most {} bytes",
                limits::MAX_KV_KEY_BYTES
            ))));
        }
        let p = prefix.clone();
        let got = match self.io.clone() {
            Io::Account(a) => self.on_host(async move { a.kv_list(p).await }).await?,
            Io::Boot(b) => self.on_host(async move { b.kv_list(p).await }).await?,
            Io::Nobody | Io::Hook(_) => {
                return Err(wasmtime::Error::msg(
                    "host functions may not be called here",
                ));
            }
        };
        Ok(got.map_err(kv_error).map(|keys| {
            let mut keys: BTreeSet<String> = keys.into_iter().collect();
            for (key, value) in self
                .staged
                .kv
                .range(prefix.clone()..)
                .take_while(|(k, _)| k.starts_with(&prefix))
            {
                match value {
                    Some(_) => keys.insert(key.clone()),
                    None => keys.remove(key),
                };
            }
            keys.into_iter().take(limits::MAX_KV_LIST).collect()
        }))
    }
}

fn fault(kind: FaultKind, text: impl Into<String>) -> HttpFault {
    HttpFault {
        kind,
        request_sent: false,
        text: text.into(),
    }
}

fn limit_fault(name: &'static str, max: usize, unit: &'static str) -> HttpFault {
    fault(
        FaultKind::Limit,
        LimitExceeded::new(name, max as u64, unit).to_string(),
    )
}

/// Checks what the guest asks for, as far as it can be seen without the allow-list.
fn request(
    r: http_types::Request,
    longest_ms: u32,
) -> std::result::Result<GuestRequest, HttpFault> {
    if !matches!(
        r.method.as_str(),
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE"
    ) {
        return Err(fault(
            FaultKind::Invalid,
            "method: one of GET, HEAD, POST, PUT, PATCH, DELETE",
        ));
    }
    if r.url.len() > limits::MAX_URL_BYTES {
        return Err(limit_fault("url", limits::MAX_URL_BYTES, "bytes"));
    }
    if r.headers.len() > limits::MAX_HTTP_HEADERS {
        return Err(limit_fault(
            "request headers",
            limits::MAX_HTTP_HEADERS,
            "headers",
        ));
    }
    if r.headers
        .iter()
        .any(|(k, v)| k.len() + v.len() > limits::MAX_HTTP_HEADER_BYTES)
    {
        return Err(limit_fault(
            "request header",
            limits::MAX_HTTP_HEADER_BYTES,
            "bytes",
        ));
    }
    if r.body.len() > limits::MAX_HTTP_REQUEST_BYTES {
        return Err(limit_fault(
            "request body",
            limits::MAX_HTTP_REQUEST_BYTES,
            "bytes",
        ));
    }
    if r.timeout_ms == 0 {
        return Err(fault(FaultKind::Invalid, "timeout-ms: from 1"));
    }
    Ok(GuestRequest {
        method: r.method,
        url: r.url,
        headers: r.headers,
        body: r.body,
        timeout_ms: r.timeout_ms.min(longest_ms),
    })
}

/// To WIT.
pub(crate) fn response_out(r: GuestResponse) -> http_types::Response {
    http_types::Response {
        status: r.status,
        headers: r.headers,
        body: r.body,
    }
}

/// To WIT.
pub(crate) fn fault_out(f: HttpFault) -> http_types::Fault {
    use http_types::FaultKind as K;
    let kind = match f.kind {
        FaultKind::Denied => K::Denied,
        FaultKind::Invalid => K::Invalid,
        FaultKind::Dns => K::Dns,
        FaultKind::Connect => K::Connect,
        FaultKind::Tls => K::Tls,
        FaultKind::Timeout => K::Timeout,
        FaultKind::TooLarge => K::TooLarge,
        FaultKind::Protocol => K::Protocol,
        FaultKind::Interrupted => K::Interrupted,
        FaultKind::Limit => K::Limit,
        FaultKind::Internal => K::Internal,
    };
    http_types::Fault {
        kind,
        request_sent: f.request_sent,
        text: f.text,
    }
}

impl GuestState {
    fn may_http(&mut self) -> std::result::Result<(), HttpFault> {
        if !matches!(self.phase, Phase::Event | Phase::Send) {
            return Err(fault(
                FaultKind::Denied,
                "http may be used in on-event, send and edit only",
            ));
        }
        self.http_calls += 1;
        if self.http_calls > limits::MAX_HTTP_PER_CALL {
            return Err(limit_fault(
                "http requests of a call",
                limits::MAX_HTTP_PER_CALL as usize,
                "requests",
            ));
        }
        Ok(())
    }
}

impl http::Host for GuestState {
    async fn fetch(
        &mut self,
        r: http_types::Request,
    ) -> Result<std::result::Result<http_types::Response, http_types::Fault>> {
        self.enter()?;
        let account = self.account()?;
        let mut r = match self
            .may_http()
            .and_then(|()| request(r, limits::MAX_FETCH_MS))
        {
            Ok(r) => r,
            Err(f) => return Ok(Err(fault_out(f))),
        };
        // Never past the deadline of the call: the guest shall have time to say what happened.
        let left = self
            .ctl
            .as_ref()
            .map_or(Duration::ZERO, |c| c.remaining())
            .saturating_sub(Duration::from_millis(50));
        r.timeout_ms = r
            .timeout_ms
            .min(u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        if r.timeout_ms == 0 {
            return Ok(Err(fault_out(fault(
                FaultKind::Timeout,
                "no time is left in this call",
            ))));
        }
        let sent = Arc::new(AtomicBool::new(false));
        let index = {
            let mut x = self.exchanges.0.lock();
            x.push(Exchange {
                sent: sent.clone(),
                ended: false,
                answered: None,
            });
            x.len() - 1
        };
        // Who gave the call up looks at the exchanges after it set the flag: either it sees this one, or this sees the flag.
        if self.ctl.as_ref().is_none_or(|c| c.is_cancelled()) {
            self.exchanges.end(index, None);
            return Err(wasmtime::Error::msg("the call was given up"));
        }
        let flag = sent.clone();
        let got = self
            .on_host(async move { account.http_fetch(r, flag).await })
            .await?;
        // Either source may know more of what has left; certainty that nothing has needs both.
        if matches!(
            &got,
            Ok(_)
                | Err(HttpFault {
                    request_sent: true,
                    ..
                })
        ) {
            sent.store(true, Ordering::Release);
        }
        self.exchanges.end(
            index,
            got.as_ref()
                .ok()
                .filter(|r| r.body.len() <= limits::MAX_HTTP_RESPONSE_BYTES)
                .map(|r| r.status),
        );
        Ok(match got {
            Ok(response) if response.body.len() > limits::MAX_HTTP_RESPONSE_BYTES => {
                Err(fault_out(HttpFault {
                    request_sent: true,
                    ..limit_fault("response body", limits::MAX_HTTP_RESPONSE_BYTES, "bytes")
                }))
            }
            Ok(response) => Ok(response_out(response)),
            Err(mut f) => {
                f.request_sent |= sent.load(Ordering::Acquire);
                Err(fault_out(f))
            }
        })
    }

    fn submit(
        &mut self,
        tag: String,
        r: http_types::Request,
    ) -> Result<std::result::Result<String, http_types::Fault>> {
        self.enter()?;
        let account = self.account()?;
        let made = self.may_http().and_then(|()| {
            if tag.len() > limits::MAX_TAG_BYTES || tag.chars().any(char::is_control) {
                return Err(limit_fault(
                    "tag",
                    limits::MAX_TAG_BYTES,
                    "bytes without control characters",
                ));
            }
            request(r, limits::MAX_SUBMIT_MS)
        });
        Ok(match made {
            Err(f) => Err(fault_out(f)),
            Ok(request) => {
                let id: String = account
                    .random(16)
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                // The rule "a tag replaces" holds inside of one event too.
                if !tag.is_empty() {
                    self.staged.submits.retain(|s| s.tag != tag);
                }
                self.staged.submits.push(Submit {
                    id: id.clone(),
                    tag,
                    request,
                });
                Ok(id)
            }
        })
    }
}

/// Checks a name that a platform gave.
fn id(what: &str, s: &str) -> std::result::Result<(), inbound::Error> {
    if s.is_empty() || s.len() > limits::MAX_ID_BYTES || s.chars().any(char::is_control) {
        return Err(inbound::Error::Invalid(format!(
            "{what}: 1 to {} bytes without control characters",
            limits::MAX_ID_BYTES
        )));
    }
    Ok(())
}

/// Whether `extra` keeps its limits.
pub(crate) fn extra_ok(extra: &[(String, String)]) -> bool {
    extra.len() <= limits::MAX_EXTRA_PAIRS
        && extra.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= limits::MAX_EXTRA_BYTES
}

/// From WIT.
pub(crate) fn peer_in(p: wit::Peer) -> ty::Peer {
    let kind = match p.kind {
        wit::PeerKind::Direct => ty::PeerKind::Direct,
        wit::PeerKind::Group => ty::PeerKind::Group,
        wit::PeerKind::Channel => ty::PeerKind::Channel,
    };
    ty::Peer {
        kind,
        id: p.id,
        thread: p.thread,
    }
}

/// To WIT.
pub(crate) fn peer_out(p: ty::Peer) -> wit::Peer {
    let kind = match p.kind {
        ty::PeerKind::Direct => wit::PeerKind::Direct,
        ty::PeerKind::Group => wit::PeerKind::Group,
        ty::PeerKind::Channel => wit::PeerKind::Channel,
    };
    wit::Peer {
        kind,
        id: p.id,
        thread: p.thread,
    }
}

impl inbound::Host for GuestState {
    fn emit(
        &mut self,
        m: wit::InboundMessage,
    ) -> Result<std::result::Result<inbound::Outcome, inbound::Error>> {
        self.enter()?;
        Ok(self.emit_checked(m))
    }
}

impl GuestState {
    fn emit_checked(
        &mut self,
        m: wit::InboundMessage,
    ) -> std::result::Result<inbound::Outcome, inbound::Error> {
        if self.phase != Phase::Event {
            return Err(inbound::Error::Invalid(
                "messages may be emitted in on-event only".to_owned(),
            ));
        }
        if self.staged.emits.len() >= limits::MAX_EMITS_PER_CALL {
            return Ok(inbound::Outcome::Throttled);
        }
        id("platform-message-id", &m.platform_message_id)?;
        id("conversation.id", &m.conversation.id)?;
        id("sender.id", &m.sender.id)?;
        if let Some(t) = &m.conversation.thread {
            id("conversation.thread", t)?;
        }
        if let Some(r) = &m.reply_to {
            id("reply-to", r)?;
        }
        if m.text.len() > limits::MAX_EMIT_TEXT_BYTES {
            return Err(inbound::Error::Limit(
                LimitExceeded::new("text", limits::MAX_EMIT_TEXT_BYTES as u64, "bytes").to_string(),
            ));
        }
        if !extra_ok(&m.extra) {
            return Err(inbound::Error::Limit(format!(
                "extra: at most {} pairs and {} bytes",
                limits::MAX_EXTRA_PAIRS,
                limits::MAX_EXTRA_BYTES
            )));
        }
        if let Some(h) = &m.hold
            && !self.handles.contains(h)
        {
            return Err(inbound::Error::Invalid(
                "hold: not the handle of a webhook request of this call".to_owned(),
            ));
        }
        let key = (
            m.conversation.id.clone(),
            m.conversation.thread.clone(),
            m.platform_message_id.clone(),
        );
        if !self.staged.emitted.insert(key) {
            return Ok(inbound::Outcome::Duplicate);
        }
        self.staged.emits.push(ty::InboundMessage {
            platform_message_id: m.platform_message_id,
            conversation: peer_in(m.conversation),
            sender: ty::Sender {
                id: m.sender.id,
                display_name: m
                    .sender
                    .display_name
                    .map(|n| cut(&printable(&n), limits::MAX_ID_BYTES).to_owned()),
                is_bot: m.sender.is_bot,
            },
            text: m.text,
            mentioned: m.mentioned,
            reply_to: m.reply_to,
            timestamp_ms: m.timestamp_ms,
            hold: m.hold,
            extra: m.extra,
        });
        Ok(inbound::Outcome::Accepted)
    }
}

impl timer::Host for GuestState {
    fn set_wake(&mut self, ms: u32) -> Result<()> {
        self.enter()?;
        let now = self.account()?.now_ms();
        self.staged.wake = Some(WakeChange::At(
            now.saturating_add(i64::from(ms.clamp(1, limits::MAX_WAKE_MS))),
        ));
        Ok(())
    }

    fn clear_wake(&mut self) -> Result<()> {
        self.enter()?;
        self.account()?;
        self.staged.wake = Some(WakeChange::Clear);
        Ok(())
    }
}

impl gateway_call::Host for GuestState {
    async fn call(
        &mut self,
        method: String,
        params: String,
        key: String,
    ) -> Result<std::result::Result<String, gateway_call::Error>> {
        self.enter()?;
        let Io::Boot(boot) = self.io.clone() else {
            return Err(wasmtime::Error::msg(
                "host functions may not be called here",
            ));
        };
        let refuse = |code: &str, message: String| {
            Ok(Err(gateway_call::Error {
                code: code.to_owned(),
                message,
                retryable: false,
            }))
        };
        if !self.methods.contains(&method) {
            return refuse(
                "FORBIDDEN",
                format!(
                    "{} is not in the manifest's boot.methods",
                    printable(cut(&method, 128))
                ),
            );
        }
        self.gateway_calls += 1;
        if self.gateway_calls > limits::MAX_GATEWAY_CALLS {
            return refuse(
                "LIMIT",
                LimitExceeded::new(
                    "gateway calls of a run",
                    u64::from(limits::MAX_GATEWAY_CALLS),
                    "calls",
                )
                .to_string(),
            );
        }
        if key.len() > limits::MAX_ID_BYTES || key.chars().any(char::is_control) {
            return refuse(
                "INVALID_REQUEST",
                format!(
                    "key: at most {} bytes without control characters",
                    limits::MAX_ID_BYTES
                ),
            );
        }
        let call: BoxFuture<'static, _> =
            Box::pin(async move { boot.call(method, params, key).await });
        let got = self.on_host(call).await?;
        Ok(got.map_err(|e| gateway_call::Error {
            code: e.code,
            message: e.message,
            retryable: e.retryable,
        }))
    }
}
