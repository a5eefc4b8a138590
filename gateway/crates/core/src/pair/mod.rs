//! Devices of a tenant: who may connect as what. A device proves a key pair ([`proof`]); an operator approves it once, and it
//! gets a token per role ([`token`]). What may be approved without a person, and what a change is, is decided in [`book`].

pub mod book;
pub(crate) mod picture;
pub mod proof;
pub mod record;
pub mod setup;
pub mod token;
pub(crate) mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::event::{DevicePairChanged, DevicePairRequested, DevicePairResolved};
use gateway_protocol::frame::Close;
use gateway_protocol::methods::connect::{
    ConnectRefusal, GivenToken, PairingReason, PairingRequired,
};
use gateway_protocol::methods::devices::{
    DevicePairChangedPayload, DevicePairResolvedPayload, DeviceRequestView, DeviceTokenView,
    PairedDeviceView,
};
use gateway_protocol::scope::ScopeSet;
use gateway_store::{CredentialHash, DeviceRequestRow, DeviceTokenRow, StoreError};
use serde_json::json;

use self::book::{Book, Change, Claim, Decision, Device, Minted, Refusal, Silent};
use crate::audit::Audit;
use crate::cx::Role;
use crate::hub::Routing;
use crate::limits::{
    DEVICE_REQUEST_RETRY_MS, DEVICE_REQUEST_TTL_MS, DEVICE_SEEN_STEP_MS, DEVICE_SELF_END_MS,
};
use crate::tenant::Tenant;

/// What a connection of a paired device goes on by: it ends with the token of this hash, whatever let it in.
#[derive(Clone, PartialEq, Eq)]
pub struct DevicePass {
    /// The device.
    pub id: Arc<str>,
    /// Keyed hash of its token in the connection's role.
    pub token: [u8; 32],
}

impl std::fmt::Debug for DevicePass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DevicePass({})", self.id)
    }
}

/// A device that is let in.
#[derive(Debug, Clone)]
pub struct Paired {
    /// What it goes on by.
    pub pass: DevicePass,
    /// What it may do: what it asked for.
    pub scopes: ScopeSet,
    /// Its token; for the device only.
    pub token: String,
    /// When the token was made, Unix epoch ms.
    pub issued_at_ms: i64,
    /// Its tokens for other roles, where a setup code gave them.
    pub others: Vec<GivenToken>,
}

/// What becomes of a device that connects.
pub enum Pairing {
    /// Decided.
    Now(Box<Result<Paired, ConnectRefusal>>),
    /// Decided when something is written.
    Later(BoxFuture<'static, Result<Paired, ConnectRefusal>>),
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(result) => write!(f, "Now({:?})", result.is_ok()),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// The devices of one tenant.
#[derive(Default)]
pub struct Devices {
    /// `None`: not read yet.
    book: ArcSwapOption<Book>,
    /// Held from a decision that writes to the publication of what was written.
    turn: tokio::sync::Mutex<()>,
    /// For devices that wait for one.
    decisions: upgrade::Decisions,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let devices = self.book.load().as_ref().map(|b| b.devices().count());
        write!(f, "Devices({devices:?})")
    }
}

impl Devices {
    /// Held from a decision that writes to the publication of what was written.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// What is known now; `None` before it was read.
    #[must_use]
    pub fn book(&self) -> Option<Arc<Book>> {
        self.book.load_full()
    }
}

/// Reads the tenant's devices from its store, if that was not done yet.
///
/// # Errors
/// Those of the store.
pub(crate) async fn load(tenant: &Tenant) -> Result<Arc<Book>, StoreError> {
    if let Some(book) = tenant.devices().book() {
        return Ok(book);
    }
    let _turn = tenant.devices().turn.lock().await;
    loaded(tenant).await
}

/// As [`load`], with the turn held.
pub(crate) async fn loaded(tenant: &Tenant) -> Result<Arc<Book>, StoreError> {
    if let Some(book) = tenant.devices().book() {
        return Ok(book);
    }
    let now = tenant.now_ms();
    let (book, seen) = tenant
        .db()
        .read(move |r| {
            let book = Book::of(
                r.devices()?,
                r.device_tokens()?,
                r.device_requests(now)?,
                r.setup_codes()?,
                r.nodes()?,
                r.node_requests()?,
            );
            Ok((book, r.nodes_seen()?))
        })
        .await?;
    tenant.nodes().loaded(seen);
    let book = Arc::new(book);
    tenant
        .shared()
        .device_tokens
        .replace(tenant.id(), std::iter::empty(), book.tokens());
    tenant
        .shared()
        .device_tokens
        .replace_codes(tenant.id(), std::iter::empty(), book.codes());
    tenant.devices().book.store(Some(book.clone()));
    Ok(book)
}

/// The tokens of a tenant that is taken out are worth nothing.
pub(crate) fn forget(tenant: &Tenant) {
    if let Some(book) = tenant.devices().book.swap(None) {
        tenant
            .shared()
            .device_tokens
            .replace(tenant.id(), book.tokens(), std::iter::empty());
        let tokens = &tenant.shared().device_tokens;
        tokens.replace_codes(tenant.id(), book.codes(), std::iter::empty());
    }
}

/// Writes the changes in one transaction, with the entry of the audit log, and then shows them. Gives the book from then on
/// and whether a token ended. The turn is held.
pub(crate) async fn commit(
    tenant: &Tenant,
    book: &Book,
    changes: Vec<Change>,
    audit: &Audit,
    object: serde_json::Value,
) -> Result<(Arc<Book>, bool), StoreError> {
    let now = tenant.now_ms();
    let mut next = book.clone();
    for change in &changes {
        next.apply(change, now);
    }
    let audit = audit.clone();
    let decided: Vec<Change> = changes
        .iter()
        .filter(|c| matches!(c, Change::Decided(_) | Change::Device(_)))
        .cloned()
        .collect();
    tenant
        .db()
        .write(move |w| {
            for change in &changes {
                change.write(w, now)?;
            }
            audit.record(w, &object, now)
        })
        .await?;
    let next = Arc::new(next);
    tenant.devices().decisions.note(book, &decided);
    tenant.devices().book.store(Some(next.clone()));
    tenant.devices().decisions.tell();
    let ended = tenant
        .shared()
        .device_tokens
        .replace(tenant.id(), book.tokens(), next.tokens());
    tenant
        .shared()
        .device_tokens
        .replace_codes(tenant.id(), book.codes(), next.codes());
    Ok((next, ended))
}

fn mint(tenant: &Tenant, device_id: &str, role: Role) -> Minted {
    let shared = tenant.shared();
    let mut salt = [0_u8; 16];
    shared.random.fill(&mut salt);
    let tokens = &shared.device_tokens;
    let token = tokens.token(tenant.id(), device_id, role.as_str(), &salt);
    Minted {
        salt,
        hash: CredentialHash(tokens.hash(&token)),
    }
}

fn paired(tenant: &Tenant, claim: &Claim, device: &Device, token: &DeviceTokenRow) -> Paired {
    let now = tenant.now_ms();
    if device.saw(claim.role, now, DEVICE_SEEN_STEP_MS) {
        let hash = token.hash;
        // Under way when this returns; nobody waits for it.
        drop(tenant.db().write(move |w| w.touch_device(&hash, now)));
    }
    Paired {
        pass: DevicePass {
            id: device.row.id.as_str().into(),
            token: token.hash.0,
        },
        scopes: match claim.role {
            Role::Operator => ScopeSet::effective(claim.scopes, ScopeSet::parse(&token.scopes)),
            Role::Node => ScopeSet::NONE,
        },
        token: tenant.shared().device_tokens.token(
            tenant.id(),
            &device.row.id,
            &token.role,
            &token.salt,
        ),
        issued_at_ms: token.issued_at,
        others: Vec::new(),
    }
}

fn waits(
    book: &Book,
    claim: &Claim,
    q: &DeviceRequestRow,
    reason: PairingReason,
) -> ConnectRefusal {
    let device = book.device(&claim.device_id);
    ConnectRefusal::pairing_required(&PairingRequired {
        reason,
        request_id: &q.id,
        device_id: &claim.device_id,
        role: claim.role.as_str(),
        scopes: &q.scopes,
        approved_roles: device
            .map(|d| d.roles().map(|r| r.as_str().to_owned()).collect())
            .unwrap_or_default(),
        approved_scopes: device.map(|d| book::names(d.scopes())).unwrap_or_default(),
    })
}

/// What counts as one address for the cap on requests: an IPv4 address, or the network of one IPv6 host.
#[must_use]
pub fn address(ip: std::net::IpAddr) -> String {
    crate::auth::limiter::bucket(ip).to_string()
}

/// Decides about a device that proved itself and gave a credential of this tenant.
#[must_use]
pub fn admit(tenant: &Arc<Tenant>, claim: Claim, silent: Silent) -> Pairing {
    let claim = claim.bounded();
    if let Some(book) = tenant.devices().book() {
        match book.decide(&claim, silent, tenant.now_ms()) {
            Decision::Known(token) => {
                if let Some(device) = book.device(&claim.device_id) {
                    let paired = paired(tenant, &claim, device, &token);
                    return Pairing::Now(Box::new(Ok(paired)));
                }
            }
            Decision::Waits(q, reason) => {
                return Pairing::Now(Box::new(Err(waits(&book, &claim, &q, reason))));
            }
            Decision::Approve | Decision::Ask(_) => {}
        }
    }
    let tenant = tenant.clone();
    Pairing::Later(async move { settle(&tenant, &claim, silent).await }.boxed())
}

/// As [`admit`], with what has to be written for it.
async fn settle(
    tenant: &Arc<Tenant>,
    claim: &Claim,
    silent: Silent,
) -> Result<Paired, ConnectRefusal> {
    let failed = |error: StoreError| {
        let error = match error {
            StoreError::Limit("MAX_DEVICES_PER_TENANT") => too_many_devices(),
            StoreError::Limit(_) => too_many_requests(),
            error => crate::rpc::error::store(tenant, &error),
        };
        ConnectRefusal::closing(error, Close::POLICY)
    };
    let _turn = tenant.devices().turn.lock().await;
    let book = loaded(tenant).await.map_err(failed)?;
    let now = tenant.now_ms();
    match book.decide(claim, silent, now) {
        Decision::Known(token) => match book.device(&claim.device_id) {
            Some(device) => Ok(paired(tenant, claim, device, &token)),
            None => Err(failed(StoreError::NotFound)),
        },
        Decision::Waits(q, reason) => Err(waits(&book, claim, &q, reason)),
        Decision::Ask(reason) => {
            let id = tenant.new_id();
            let changes = Book::ask(claim, reason, id.clone(), now, DEVICE_REQUEST_TTL_MS);
            let (next, _) = commit(tenant, &book, changes, &Audit::default(), json!({}))
                .await
                .map_err(failed)?;
            let open = next.requests(now);
            let Some(q) = open.into_iter().find(|q| q.id == id) else {
                return Err(failed(StoreError::NotFound));
            };
            tenant.hub().emit::<DevicePairRequested>(
                &request_view(q, book.device(&q.device_id).is_some()),
                Routing::Everyone,
            );
            tenant.log(
                "INFO",
                &format!(
                    "device {} asks to be {} ({}): gateway devices approve {id}",
                    claim.device_id,
                    claim.role.as_str(),
                    reason.as_str()
                ),
            );
            Err(waits(&book, claim, q, reason))
        }
        Decision::Approve => {
            let minted = mint(tenant, &claim.device_id, claim.role);
            let changes = book.approve_silently(claim, "silent", minted, now);
            let audit = Audit::by_itself(tenant, "device.pair.silent");
            let object = json!({
                "deviceId": claim.device_id, "role": claim.role.as_str(),
                "scopes": book::names(claim.scopes),
            });
            let (next, ended) = commit(tenant, &book, changes, &audit, object)
                .await
                .map_err(failed)?;
            if ended {
                tenant.shared().api_keys.tell_change();
            }
            resolved(tenant, &tenant.new_id(), &claim.device_id, "approved");
            let device = next.device(&claim.device_id);
            match device.and_then(|d| Some((d, d.token(claim.role)?))) {
                Some((device, token)) => Ok(paired(tenant, claim, device, token)),
                None => Err(failed(StoreError::NotFound)),
            }
        }
    }
}

pub(crate) fn too_many_requests() -> RpcError {
    RpcError::new(
        DetailCode::RateLimited,
        "too many devices wait for approval; decide about them with `gateway devices list`",
    )
    .retry_after_ms(DEVICE_REQUEST_RETRY_MS)
}

pub(crate) fn too_many_devices() -> RpcError {
    RpcError::new(
        DetailCode::QuotaExceeded,
        "the tenant has as many devices as it may have; remove those that are not used",
    )
    .with("quota", "devices")
}

fn resolved(tenant: &Tenant, request_id: &str, device_id: &str, decision: &str) {
    tenant.hub().emit::<DevicePairResolved>(
        &DevicePairResolvedPayload {
            request_id: request_id.to_owned(),
            device_id: device_id.to_owned(),
            decision: decision.to_owned(),
            ts: tenant.now_ms(),
        },
        Routing::Everyone,
    );
}

/// Why a change by an operator failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It makes no sense, or the operator may not.
    Refused(Refusal),
    /// It could not be written.
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Who changes devices, and how far that goes.
#[derive(Clone)]
pub(crate) struct Operator {
    /// What it may give.
    pub(crate) ceiling: ScopeSet,
    /// The device that it is itself.
    pub(crate) device: Option<DevicePass>,
    /// Where it is written down.
    pub(crate) audit: Audit,
}

/// One change: decided and written in the tenant's turn, then told. It is a task of its own, because what was written has to be
/// shown, whether the caller still waits or not. With `gently` a device that gets another token has a moment to read it.
pub(crate) async fn change<T: Send + 'static>(
    tenant: &Arc<Tenant>,
    by: &Operator,
    object: serde_json::Value,
    gently: bool,
    decide: impl FnOnce(&Tenant, &Book, i64) -> Result<(Vec<Change>, T), Refusal> + Send + 'static,
) -> Result<(Arc<Book>, T), Failed> {
    let (owner, by) = (tenant.clone(), by.clone());
    let task = tenant.tasks().spawn(async move {
        let tenant = &*owner;
        let _turn = tenant.devices().turn.lock().await;
        let book = loaded(tenant).await?;
        let (changes, result) = decide(tenant, &book, tenant.now_ms())?;
        let (next, ended) = commit(tenant, &book, changes, &by.audit, object).await?;
        let shared = tenant.shared();
        let own = by
            .device
            .is_some_and(|pass| shared.device_tokens.find(&pass.token).is_none());
        match (ended, own || gently) {
            (false, _) => {}
            (true, false) => shared.api_keys.tell_change(),
            (true, true) => {
                // The device's own connection ends too, after it got its answer.
                let shared = shared.clone();
                tenant.tasks().spawn(async move {
                    tokio::time::sleep(Duration::from_millis(DEVICE_SELF_END_MS)).await;
                    shared.api_keys.tell_change();
                });
            }
        }
        Ok((next, result))
    });
    task.await.unwrap_or(Err(Failed::Store(StoreError::Closed)))
}

/// Approves a request. Gives the device.
pub(crate) async fn approve(
    tenant: &Arc<Tenant>,
    by: &Operator,
    request_id: &str,
) -> Result<Arc<Device>, Failed> {
    let object = json!({ "requestId": request_id });
    let (id, ceiling) = (request_id.to_owned(), by.ceiling);
    let (book, device_id) = change(tenant, by, object, true, move |tenant, book, now| {
        let open = book.requests(now);
        let q = open.into_iter().find(|q| q.id == id);
        let q = q.ok_or(Refusal::NoRequest)?;
        let role = token::role_of(&q.role).ok_or(Refusal::NoRequest)?;
        let minted = mint(tenant, &q.device_id, role);
        let changes = book.approve(&id, ceiling, minted, now)?;
        Ok((changes, q.device_id.clone()))
    })
    .await?;
    resolved(tenant, request_id, &device_id, "approved");
    let device = book.device(&device_id).cloned();
    device.ok_or(Failed::Refused(Refusal::NoDevice))
}

/// Turns a request down. Gives the device that asked.
pub(crate) async fn reject(
    tenant: &Arc<Tenant>,
    by: &Operator,
    request_id: &str,
) -> Result<String, Failed> {
    let object = json!({ "requestId": request_id });
    let id = request_id.to_owned();
    let (_, device_id) = change(tenant, by, object, false, move |_, book, now| {
        book.reject(&id, now)
    })
    .await?;
    resolved(tenant, request_id, &device_id, "rejected");
    Ok(device_id)
}

/// Forgets a device.
pub(crate) async fn remove(
    tenant: &Arc<Tenant>,
    by: &Operator,
    device_id: &str,
) -> Result<(), Failed> {
    let object = json!({ "deviceId": device_id });
    let id = device_id.to_owned();
    change(tenant, by, object, false, move |_, book, _| {
        Ok((book.remove(&id)?, ()))
    })
    .await?;
    changed(tenant);
    Ok(())
}

/// Names a device.
pub(crate) async fn rename(
    tenant: &Arc<Tenant>,
    by: &Operator,
    device_id: &str,
    label: &str,
) -> Result<(), Failed> {
    let object = json!({ "deviceId": device_id });
    let (id, label) = (device_id.to_owned(), label.to_owned());
    change(tenant, by, object, false, move |_, book, _| {
        Ok((book.rename(&id, &label)?, ()))
    })
    .await?;
    changed(tenant);
    Ok(())
}

/// A token that was replaced.
pub(crate) struct Rotated {
    pub(crate) row: DeviceTokenRow,
    /// The new token, if the device itself asked on the old one.
    pub(crate) token: Option<String>,
}

/// Replaces a token.
pub(crate) async fn rotate(
    tenant: &Arc<Tenant>,
    by: &Operator,
    device_id: &str,
    role: Role,
    scopes: Option<ScopeSet>,
) -> Result<Rotated, Failed> {
    let object = json!({ "deviceId": device_id, "role": role.as_str() });
    let (id, ceiling, pass) = (device_id.to_owned(), by.ceiling, by.device.clone());
    let (book, own) = change(tenant, by, object, false, move |tenant, book, now| {
        let old = book.device(&id).and_then(|d| d.token(role));
        let own = match (old, pass) {
            (Some(old), Some(pass)) => *pass.id == *id && pass.token == old.hash.0,
            _ => false,
        };
        let minted = mint(tenant, &id, role);
        let changes = book.rotate(&id, role, scopes, ceiling, minted, now)?;
        Ok((changes, own))
    })
    .await?;
    changed(tenant);
    let row = book.device(device_id).and_then(|d| d.token(role)).cloned();
    let row = row.ok_or(Failed::Refused(Refusal::NoToken))?;
    let tokens = &tenant.shared().device_tokens;
    let token = own.then(|| tokens.token(tenant.id(), device_id, role.as_str(), &row.salt));
    Ok(Rotated { row, token })
}

/// Ends a token. Gives when.
pub(crate) async fn revoke(
    tenant: &Arc<Tenant>,
    by: &Operator,
    device_id: &str,
    role: Role,
) -> Result<i64, Failed> {
    let object = json!({ "deviceId": device_id, "role": role.as_str() });
    let id = device_id.to_owned();
    let (_, at) = change(tenant, by, object, false, move |_, book, now| {
        Ok((book.revoke(&id, role, now)?, now))
    })
    .await?;
    changed(tenant);
    Ok(at)
}

fn changed(tenant: &Tenant) {
    tenant
        .hub()
        .emit::<DevicePairChanged>(&DevicePairChangedPayload {}, Routing::Everyone);
}

/// A request as operators see it.
pub(crate) fn request_view(q: &DeviceRequestRow, is_repair: bool) -> DeviceRequestView {
    DeviceRequestView {
        request_id: q.id.clone(),
        device_id: q.device_id.clone(),
        public_key: q.public_key.clone(),
        display_name: q.display_name.clone(),
        platform: q.platform.clone(),
        device_family: q.device_family.clone(),
        client_id: q.client_id.clone(),
        client_mode: q.client_mode.clone(),
        role: q.role.clone(),
        roles: vec![q.role.clone()],
        scopes: q.scopes.clone(),
        remote_ip: Some(q.address.clone()),
        silent: false,
        is_repair,
        ts: q.created_at,
        expires_at_ms: q.expires_at,
    }
}

/// A device as operators see it.
pub(crate) fn device_view(device: &Device, connected: bool) -> PairedDeviceView {
    let row = &device.row;
    let tokens: Vec<DeviceTokenView> = device
        .tokens
        .values()
        .map(|t| DeviceTokenView {
            role: t.role.clone(),
            scopes: t.scopes.clone(),
            created_at_ms: t.created_at,
            rotated_at_ms: t.rotated_at,
            revoked_at_ms: t.revoked_at,
            last_used_at_ms: token::role_of(&t.role).and_then(|role| device.last_used_ms(role)),
        })
        .collect();
    PairedDeviceView {
        device_id: row.id.clone(),
        public_key: row.public_key.clone(),
        display_name: row.display_name.clone(),
        operator_label: row.label.clone(),
        platform: row.platform.clone(),
        device_family: row.device_family.clone(),
        client_id: row.client_id.clone(),
        client_mode: row.client_mode.clone(),
        role: device
            .tokens
            .values()
            .min_by_key(|t| t.created_at)
            .map(|t| t.role.clone())
            .unwrap_or_default(),
        roles: device.roles().map(|r| r.as_str().to_owned()).collect(),
        scopes: book::names(device.scopes()),
        approved_via: row.approved_via.clone(),
        created_at_ms: row.created_at,
        approved_at_ms: row.approved_at,
        last_seen_at_ms: device.last_seen_ms(),
        last_seen_reason: device.last_seen_ms().map(|_| "connect".to_owned()),
        connected,
        tokens,
    }
}
