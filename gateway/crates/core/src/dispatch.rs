//! One way from a decoded request to its result, whatever transport or codec it came by.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::method::{Class, refuse_unknown};
use serde_json::value::RawValue;

use crate::audit::Audit;
use crate::cx::Cx;
use crate::host::Host;
use crate::limits::{COMMAND_DEADLINE_MS, QUERY_DEADLINE_MS};
use crate::metrics::Timed;
use crate::registry::Handler;

/// Where a call is after [`dispatch`].
pub enum Dispatched {
    /// Answered.
    Ready(Result<Bytes, RpcError>),
    /// To be driven to its end. It does not borrow anything and may run on any task.
    Pending(BoxFuture<'static, Result<Bytes, RpcError>>),
}

impl std::fmt::Debug for Dispatched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready(r) => write!(f, "Ready({:?})", r.as_ref().map(Bytes::len)),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

impl Dispatched {
    /// The result, driven here.
    pub async fn wait(self) -> Result<Bytes, RpcError> {
        match self {
            Self::Ready(r) => r,
            Self::Pending(f) => f.await,
        }
    }
}

/// Checks the caller against the method, decodes the params and runs the handler.
///
/// `strict` is the JSON-RPC surface: unknown params are refused, and an unknown method is told as such to everybody.
#[must_use]
pub fn dispatch(
    host: &Host,
    cx: Cx,
    method: &str,
    params: Option<&RawValue>,
    strict: bool,
) -> Dispatched {
    let mut cx = cx;
    let Some(entry) = host.registry().get(method) else {
        let timed = Timed::begin(&cx, crate::metrics::place_of(method));
        return Dispatched::Ready(timed.end(Err(if strict {
            RpcError::unknown_method(method)
        } else {
            refuse_unknown(method, cx.caller.role, cx.caller.scopes)
        })));
    };
    if entry.audited {
        cx.audit = Audit::begin(&cx, entry.spec.name);
    }
    let timed = Timed::begin(&cx, entry.place);
    match admit(host, &cx, entry, method) {
        Err(error) => Dispatched::Ready(timed.end(Err(error))),
        Ok(()) => run(host, entry, cx, params, strict, timed),
    }
}

fn admit(
    host: &Host,
    cx: &Cx,
    entry: &crate::registry::Entry,
    method: &str,
) -> Result<(), RpcError> {
    let caller = &cx.caller;
    entry.spec.access.check(caller.role, caller.scopes)?;
    if let Some(only) = &caller.only_methods
        && !only.iter().any(|m| **m == *method)
    {
        return Err(RpcError::new(
            DetailCode::CapabilityDenied,
            "this caller may not use this method",
        )
        .with("method", method));
    }
    if let Some(hold) = cx.tenant.hold()
        && !hold.lets(method, caller)
    {
        return Err(hold.refusal(cx.tenant.now_ms()));
    }
    if host.is_draining() && entry.spec.class != Class::Query {
        return Err(
            RpcError::new(DetailCode::Draining, "the gateway is shutting down")
                .with("reason", "gateway-restarting")
                .retry_after_ms(500),
        );
    }
    if entry.counted {
        let now = cx.tenant.clock().monotonic_ms();
        cx.tenant
            .write_limiter()
            .admit(entry.spec.name, caller.ip, now)?;
    }
    Ok(())
}

fn run(
    host: &Host,
    entry: &crate::registry::Entry,
    cx: Cx,
    params: Option<&RawValue>,
    strict: bool,
    timed: Timed,
) -> Dispatched {
    let name = entry.spec.name;
    let faults = host.faults().clone();
    match &entry.handler {
        Handler::Sync(handler) => {
            let result =
                std::panic::catch_unwind(AssertUnwindSafe(|| handler(&cx, params, strict)));
            let result = result.unwrap_or_else(|panic| Err(faults.panicked(name, &*panic)));
            Dispatched::Ready(timed.end(result))
        }
        Handler::Async(handler) => {
            let cancel = cx.cancel.clone();
            let started =
                std::panic::catch_unwind(AssertUnwindSafe(|| handler(cx, params, strict)));
            let future = match started {
                Ok(Ok(future)) => future,
                Ok(Err(error)) => return Dispatched::Ready(timed.end(Err(error))),
                Err(panic) => {
                    return Dispatched::Ready(timed.end(Err(faults.panicked(name, &*panic))));
                }
            };
            let guarded = AssertUnwindSafe(future).catch_unwind();
            let finished = move |r: Result<Result<Bytes, RpcError>, Panic>| match r {
                Ok(result) => result,
                Err(panic) => Err(faults.panicked(name, &*panic)),
            };
            match entry.spec.class {
                // May outlive every default deadline; ends with its caller.
                Class::Wait => {
                    Dispatched::Pending(Box::pin(async move { timed.end(finished(guarded.await)) }))
                }
                Class::Command => Dispatched::Pending(Box::pin(async move {
                    let limit = Duration::from_millis(COMMAND_DEADLINE_MS);
                    timed.end(match tokio::time::timeout(limit, guarded).await {
                        Ok(r) => finished(r),
                        Err(_) => Err(deadline(name)),
                    })
                })),
                Class::Query => Dispatched::Pending(Box::pin(async move {
                    let limited =
                        tokio::time::timeout(Duration::from_millis(QUERY_DEADLINE_MS), guarded);
                    timed.end(tokio::select! {
                        biased;
                        r = limited => match r { Ok(r) => finished(r), Err(_) => Err(deadline(name)) },
                        () = cancel.cancelled() => Err(RpcError::unavailable("cancelled")),
                    })
                })),
            }
        }
    }
}

/// What a panic carries.
type Panic = Box<dyn std::any::Any + Send>;

fn deadline(method: &str) -> RpcError {
    RpcError::new(DetailCode::Deadline, format!("{method} took too long"))
}
