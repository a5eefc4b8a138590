//! The one table from method names to handlers. Missing or duplicate handlers are a start-up (and unit-test) failure.

use std::collections::HashMap;
use std::future::Future;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_protocol::error::RpcError;
use gateway_protocol::method::{self, Method, MethodSpec};
use serde_json::value::RawValue;

use crate::cx::Cx;

/// A synchronous handler's result.
#[derive(Debug)]
pub enum Reply<T> {
    /// To be encoded.
    Value(T),
    /// JSON that exists already (a published snapshot).
    Encoded(Bytes),
}

type Encoded = Result<Bytes, RpcError>;
type SyncHandler = Box<dyn Fn(&Cx, Option<&RawValue>, bool) -> Encoded + Send + Sync>;
type AsyncHandler = Box<
    dyn Fn(Cx, Option<&RawValue>, bool) -> Result<BoxFuture<'static, Encoded>, RpcError>
        + Send
        + Sync,
>;

pub(crate) enum Handler {
    Sync(SyncHandler),
    Async(AsyncHandler),
}

pub(crate) struct Entry {
    pub(crate) spec: &'static MethodSpec,
    /// In the protocol's table of methods.
    pub(crate) place: usize,
    /// Its calls are counted by the limiter of writes.
    pub(crate) counted: bool,
    /// Its calls are written into the audit log.
    pub(crate) audited: bool,
    pub(crate) handler: Handler,
}

/// What is wrong with a registry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// Two handlers for one method.
    #[error("two handlers for {0}")]
    Duplicate(&'static str),
    /// Published methods without handler.
    #[error("no handler for {0}")]
    Missing(String),
    /// A handler for a method that the protocol does not publish.
    #[error("{0} is not a method of the protocol")]
    Unpublished(&'static str),
}

/// Handlers by method name.
#[derive(Default)]
pub struct Registry {
    entries: HashMap<&'static str, Entry>,
    problem: Option<RegistryError>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} methods)", self.entries.len())
    }
}

impl Registry {
    /// No methods.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn add(mut self, name: &'static str, handler: Handler) -> Self {
        let Some(spec) = method::find(name) else {
            self.problem.get_or_insert(RegistryError::Unpublished(name));
            return self;
        };
        let place = crate::metrics::place_of(name);
        let entry = Entry {
            spec,
            place,
            counted: crate::write_limit::is_counted(name),
            audited: crate::audit::is_audited(name),
            handler,
        };
        if self.entries.insert(name, entry).is_some() {
            self.problem.get_or_insert(RegistryError::Duplicate(name));
        }
        self
    }

    /// An asynchronous handler.
    #[must_use]
    pub fn on<M: Method>(self, handler: impl AsyncHandlerFn<M>) -> Self {
        let handler: AsyncHandler = Box::new(move |cx, params, strict| {
            let params = method::decode::<M>(params, strict)?;
            let future = handler.call(cx, params);
            Ok(Box::pin(async move { encode(M::NAME, &future.await?) }))
        });
        self.add(M::NAME, Handler::Async(handler))
    }

    /// A handler that answers at once, without a task.
    #[must_use]
    pub fn on_sync<M: Method>(
        self,
        handler: impl Fn(&Cx, M::Params) -> Result<Reply<M::Result>, RpcError> + Send + Sync + 'static,
    ) -> Self {
        let handler: SyncHandler = Box::new(move |cx, params, strict| {
            match handler(cx, method::decode::<M>(params, strict)?)? {
                Reply::Encoded(bytes) => Ok(bytes),
                Reply::Value(value) => encode(M::NAME, &value),
            }
        });
        self.add(M::NAME, Handler::Sync(handler))
    }

    /// The finished registry: every published method has exactly one handler, except those named in `elsewhere`
    /// (`connect` is answered by the transport).
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn finish(self, elsewhere: &[&str]) -> Result<Self, RegistryError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let missing: Vec<&str> = method::all()
            .iter()
            .map(|s| s.name)
            .filter(|n| !self.entries.contains_key(n) && !elsewhere.contains(n))
            .collect();
        if missing.is_empty() {
            Ok(self)
        } else {
            Err(RegistryError::Missing(missing.join(", ")))
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Descriptors of the methods that have a handler here, in no order.
    pub fn specs(&self) -> impl Iterator<Item = &'static MethodSpec> + '_ {
        self.entries.values().map(|e| e.spec)
    }
}

/// An `async fn(Cx, Params) -> Result<Result, RpcError>`.
pub trait AsyncHandlerFn<M: Method>: Send + Sync + 'static {
    /// Starts the call.
    fn call(&self, cx: Cx, params: M::Params) -> BoxFuture<'static, Result<M::Result, RpcError>>;
}

impl<M, F, Fut> AsyncHandlerFn<M> for F
where
    M: Method,
    F: Fn(Cx, M::Params) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<M::Result, RpcError>> + Send + 'static,
{
    fn call(&self, cx: Cx, params: M::Params) -> BoxFuture<'static, Result<M::Result, RpcError>> {
        Box::pin(self(cx, params))
    }
}

fn encode<T: serde::Serialize>(method: &'static str, value: &T) -> Encoded {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        tracing::error!(method, %error, "result not encoded");
        RpcError::internal("encode")
    })
}
