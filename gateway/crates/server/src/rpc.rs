//! JSON-RPC calls on the one dispatcher, whichever transport carries them.

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use gateway_core::{
    cx::Cx,
    dispatch::{Dispatched, dispatch},
};
use gateway_protocol::{
    error::{DetailCode, RpcError},
    jsonrpc::{self, Item},
};

use crate::app::App;

/// Calls of one batch that run at the same time.
const BATCH_AT_ONCE: usize = 8;

/// A call that has not ended yet.
pub(crate) struct Running {
    /// JSON text of the id; `None` when the future gives the whole answer (or an empty one).
    pub(crate) id: Option<Box<str>>,
    pub(crate) waits: bool,
    pub(crate) future: BoxFuture<'static, Result<Bytes, RpcError>>,
}

/// Where a call is.
pub(crate) enum Started {
    /// Over, and there is nothing to say.
    Nothing,
    /// Over; this is the answer.
    Done(Vec<u8>),
    Running(Running),
}

/// The answer to one call.
pub(crate) fn encode(id: &str, result: Result<Bytes, RpcError>) -> Vec<u8> {
    match result {
        Ok(value) => jsonrpc::encode_ok(id, &value),
        Err(e) if e.detail == DetailCode::UnknownMethod => jsonrpc::method_not_found(id),
        Err(e) => jsonrpc::encode_err(id, &e),
    }
}

/// Refuses a call before any work.
pub(crate) fn overloaded(item: &Item<'_>) -> Started {
    let error = || {
        RpcError::new(
            DetailCode::Overloaded,
            "too many calls at once on this connection",
        )
        .retry_after_ms(100)
    };
    match item {
        Item::Call { id, .. } => Started::Done(encode(id.get(), Err(error()))),
        Item::Notification { .. } => Started::Nothing,
        Item::Invalid(answer) => Started::Done(answer.clone()),
    }
}

/// Starts one entry of a text. A notification never gets an answer, whatever happens to it.
pub(crate) fn start(app: &App, mut cx: Cx, item: &Item<'_>) -> Started {
    let (id, method, params) = match item {
        Item::Call { id, method, params } => (Some(id.get()), method, *params),
        Item::Notification { method, params } => (None, method, *params),
        Item::Invalid(answer) => return Started::Done(answer.clone()),
    };
    let named = jsonrpc::by_name(method, params);
    let dispatched = match named.and_then(|params| jsonrpc::split_meta(method, params)) {
        Ok((params, meta)) => {
            // What a call says of itself counts before what the request around it says.
            if let Some(traceparent) = meta.traceparent {
                cx.traceparent = Some(traceparent.into());
            }
            dispatch(&app.host, cx, method, params.as_deref(), true)
        }
        Err(error) => Dispatched::Ready(Err(error)),
    };
    match (dispatched, id) {
        (Dispatched::Ready(_), None) => Started::Nothing,
        (Dispatched::Ready(result), Some(id)) => Started::Done(encode(id, result)),
        (Dispatched::Pending(future), Some(id)) => Started::Running(Running {
            id: Some(id.into()),
            waits: app.waits.contains(&**method),
            future,
        }),
        (Dispatched::Pending(future), None) => {
            let future = Box::pin(async move {
                let _ = future.await;
                Ok(Bytes::new())
            });
            Started::Running(Running {
                id: None,
                waits: app.waits.contains(&**method),
                future,
            })
        }
    }
}

/// Joins the entries of a batch into one answer, in the order of the entries.
pub(crate) fn batch(entries: Vec<Started>) -> Started {
    if entries.iter().all(|e| !matches!(e, Started::Running(_))) {
        let answers: Vec<Vec<u8>> = entries
            .into_iter()
            .filter_map(|e| {
                if let Started::Done(a) = e {
                    Some(a)
                } else {
                    None
                }
            })
            .collect();
        return jsonrpc::encode_batch(&answers).map_or(Started::Nothing, Started::Done);
    }
    let waits = entries
        .iter()
        .all(|e| matches!(e, Started::Running(r) if r.waits) || !matches!(e, Started::Running(_)));
    let future = Box::pin(async move {
        let answers: Vec<Vec<u8>> = futures_util::stream::iter(entries)
            .map(|entry| async move {
                match entry {
                    Started::Nothing => Vec::new(),
                    Started::Done(answer) => answer,
                    Started::Running(Running { id, future, .. }) => match (id, future.await) {
                        (Some(id), result) => encode(&id, result),
                        (None, _) => Vec::new(),
                    },
                }
            })
            .buffered(BATCH_AT_ONCE)
            .filter(|a| std::future::ready(!a.is_empty()))
            .collect()
            .await;
        Ok(jsonrpc::encode_batch(&answers).map_or_else(Bytes::new, Bytes::from))
    });
    Started::Running(Running {
        id: None,
        waits,
        future,
    })
}
