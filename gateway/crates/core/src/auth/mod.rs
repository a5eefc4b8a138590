//! Who is calling: credential → tenant and scopes.
//!
//! Secrets of the settings are turned into keyed hashes (HMAC-SHA-256 under a key of this host) and only those are
//! kept and compared, in constant time. A credential names its tenant by itself; a host name or path that names
//! another one makes it as wrong as a credential that nobody has.

mod keys;
pub mod limiter;
mod proxy;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use gateway_config::{AuthMode, TailscaleLogins};
use gateway_metrics::Counter;
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::methods::connect::AuthReason;
use gateway_protocol::scope::ScopeSet;
use gateway_store::TenantId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

pub use self::keys::{ApiKey, ApiKeys, NewApiKey};
pub use self::limiter::{CredentialClass, FailureLimiter, LimiterRules};
use self::proxy::Proxied;
pub use self::proxy::{Vouched, headers_of};
use crate::clock::Clock;
use crate::cx::{Role, Surface};
use crate::host::TenantHint;
use crate::limits::AUTH_CREDENTIAL_MAX_BYTES;
use crate::pair::DevicePass;
use crate::tenant::{Shared, Tenant};

/// A keyed hash of a credential.
pub type CredentialHash = [u8; 32];

/// One attempt to prove who calls.
pub struct AuthAttempt<'a> {
    /// Address of the socket's peer.
    pub peer: IpAddr,
    /// Whether that is this machine, seen at the real socket and with no forwarding header.
    pub loopback: bool,
    /// The `Origin` header, if there is one: a browser page is never exempt from the limiter.
    pub origin: Option<&'a str>,
    /// Tenant named by host name or path.
    pub tenant_hint: &'a TenantHint,
    /// `auth.token` or bearer.
    pub token: Option<&'a str>,
    /// `auth.password`.
    pub password: Option<&'a str>,
    /// `auth.deviceToken`.
    pub device_token: Option<&'a str>,
    /// `auth.bootstrapToken`.
    pub bootstrap_token: Option<&'a str>,
    /// What a configured reverse proxy says of the request, where one brought it.
    pub vouched: Option<&'a Vouched>,
    /// The device that the attempt says it is, and its role. Whether it is, is proven afterwards.
    pub device: Option<(&'a str, Role)>,
    /// The way in.
    pub surface: Surface,
}

/// By what a connection was let in: it stays good only as long as the settings have it. Says nothing about the secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By being on this machine, where the tenant asks for no credential.
    Open,
    /// By the credential of this keyed hash.
    Credential(CredentialHash),
    /// By a login of the tailnet, of this keyed hash, that Tailscale vouched for.
    Login(CredentialHash),
    /// By the user, of this keyed hash, that a trusted proxy vouched for.
    Proxied(CredentialHash),
    /// By the device token of this keyed hash.
    Device(CredentialHash),
    /// By the setup code whose credential has this keyed hash: good for becoming a device, and for nothing that goes on.
    Setup(CredentialHash),
}

impl Proof {
    /// A name for the audit log: the method, and of a credential the beginning of its keyed hash. Equal for the same secret.
    #[must_use]
    pub fn name(&self, method: &str) -> Box<str> {
        match self {
            Self::Open => method.into(),
            Self::Credential(hash)
            | Self::Login(hash)
            | Self::Proxied(hash)
            | Self::Device(hash)
            | Self::Setup(hash) => {
                let [a, b, c, d, ..] = *hash;
                format!("{method}:{a:02x}{b:02x}{c:02x}{d:02x}").into()
            }
        }
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Credential(_) => "Credential(…)",
            Self::Login(_) => "Login(…)",
            Self::Proxied(_) => "Proxied(…)",
            Self::Device(_) => "Device(…)",
            Self::Setup(_) => "Setup(…)",
        })
    }
}

/// A caller whose credential was right.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The tenant of the credential.
    pub tenant: Arc<Tenant>,
    /// What let it in.
    pub proof: Proof,
    /// `token`, `password`, `device-token`, `bootstrap-token`, `tailscale`, `trusted-proxy` or `none`, for `hello-ok.auth.method`.
    pub method: &'static str,
    /// The most that the credential may do; the connection gets what it asks for of it.
    pub ceiling: ScopeSet,
    /// The API key, if it was one.
    pub key: Option<Arc<ApiKey>>,
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub struct AuthRefusal {
    /// The answer; the same for every kind of wrong credential.
    pub error: RpcError,
}

/// Which kind of secret a hash belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// `gateway.auth.token`.
    Token,
    /// `gateway.auth.password`.
    Password,
    /// One made with `apikeys.create`.
    ApiKey,
}

impl CredentialKind {
    /// The name in `hello-ok.auth.method` and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::ApiKey => "api-key",
        }
    }
}

struct Credential {
    hash: CredentialHash,
    kind: CredentialKind,
    tenant: Arc<Tenant>,
    /// Good on this machine only.
    local: bool,
}

/// Whose a credential is.
struct Owner {
    tenant: Arc<Tenant>,
    kind: CredentialKind,
    key: Option<Arc<ApiKey>>,
    /// Good on this machine only.
    local: bool,
}

/// The credentials of all tenants and the failure limiter. Replaced as a whole when settings change, so that an old
/// secret ends at once.
pub struct Authenticator {
    key: [u8; 32],
    credentials: arc_swap::ArcSwap<HashMap<CredentialHash, Credential>>,
    shared: Arc<Shared>,
    /// The tenants in force, for the owners of API keys.
    tenants: arc_swap::ArcSwap<HashMap<TenantId, Arc<Tenant>>>,
    open_tenant: arc_swap::ArcSwapOption<Tenant>,
    logins: arc_swap::ArcSwap<Logins>,
    proxied: arc_swap::ArcSwap<Proxied>,
    limiter: FailureLimiter,
    clock: Arc<dyn Clock>,
    failures: Counter,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Authenticator({} credentials)",
            self.credentials.load().len()
        )
    }
}

/// Whose operators the logins of a tailnet are.
#[derive(Default)]
struct Logins {
    everybody: Option<Arc<Tenant>>,
    listed: HashMap<CredentialHash, Arc<Tenant>>,
}

impl Logins {
    fn owner(&self, hash: &CredentialHash) -> Option<&Arc<Tenant>> {
        self.listed.get(hash).or(self.everybody.as_ref())
    }
}

/// The most that who was let in by a login of the tailnet may do: to administer, somebody has to have the token.
const LOGIN_SCOPES: [&str; 2] = ["operator.read", "operator.write"];

/// The keyed hash of a secret.
#[must_use]
pub fn credential_hash(key: &[u8; 32], secret: &str) -> CredentialHash {
    // HMAC takes keys of any length, so this cannot fail; the fallback keeps the function total and matches nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    mac.update(secret.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The credentials that a tenant's settings name; the secret of an unused mode is not one.
#[must_use]
pub fn credentials_of(
    key: &[u8; 32],
    auth: &gateway_config::AuthSettings,
) -> Vec<(CredentialHash, CredentialKind)> {
    let kind = match auth.mode {
        AuthMode::None => return Vec::new(),
        AuthMode::Token => CredentialKind::Token,
        AuthMode::Password | AuthMode::TrustedProxy => CredentialKind::Password,
    };
    auth.active()
        .map(|secret| (credential_hash(key, secret.expose()), kind))
        .into_iter()
        .collect()
}

impl Authenticator {
    /// An authenticator that knows nobody yet.
    #[must_use]
    pub fn new(
        key: [u8; 32],
        shared: Arc<Shared>,
        rules: LimiterRules,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            key,
            shared,
            credentials: arc_swap::ArcSwap::from_pointee(HashMap::new()),
            tenants: arc_swap::ArcSwap::from_pointee(HashMap::new()),
            open_tenant: arc_swap::ArcSwapOption::empty(),
            logins: arc_swap::ArcSwap::from_pointee(Logins::default()),
            proxied: arc_swap::ArcSwap::from_pointee(Proxied::default()),
            limiter: FailureLimiter::new(rules),
            clock,
            failures: Counter::default(),
        }
    }

    /// Replaces all credentials. A secret that two tenants share belongs to neither: it is left out and named in
    /// the result (slugs), because it cannot say which tenant it means.
    pub fn replace<'a>(
        &self,
        tenants: impl IntoIterator<Item = (&'a Arc<Tenant>, &'a gateway_config::AuthSettings)>,
    ) -> Vec<String> {
        let mut map: HashMap<CredentialHash, Credential> = HashMap::new();
        let mut shared: Vec<(CredentialHash, String)> = Vec::new();
        let mut open = None;
        let mut known = HashMap::new();
        let tenants: Vec<_> = tenants.into_iter().collect();
        let proxied = Proxied::of(&self.key, tenants.iter().copied());
        for (tenant, auth) in tenants {
            known.insert(tenant.id().clone(), tenant.clone());
            if auth.mode == AuthMode::None && tenant.slug() == gateway_config::MAIN_TENANT {
                open = Some(tenant.clone());
            }
            for (hash, kind) in credentials_of(&self.key, auth) {
                if let Some(other) = map.get(&hash) {
                    shared.push((hash, other.tenant.slug().to_owned()));
                    shared.push((hash, tenant.slug().to_owned()));
                }
                map.insert(
                    hash,
                    Credential {
                        hash,
                        kind,
                        tenant: tenant.clone(),
                        local: auth.mode == AuthMode::TrustedProxy,
                    },
                );
            }
        }
        for (hash, _) in &shared {
            map.remove(hash);
        }
        self.credentials.store(Arc::new(map));
        self.tenants.store(Arc::new(known));
        self.open_tenant.store(open);
        self.proxied.store(Arc::new(proxied));
        self.shared.api_keys.tell_change();
        shared.into_iter().map(|(_, slug)| slug).collect()
    }

    /// Replaces the rules of the failure limiter; failures that were counted stay counted.
    pub(crate) fn set_rules(&self, rules: LimiterRules) {
        self.limiter.set_rules(rules);
    }

    /// Attempts that were refused since the start.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// Forgets limiter entries that ended.
    pub(crate) fn sweep(&self) {
        self.limiter.sweep(self.clock.monotonic_ms());
    }

    /// Replaces the logins of the tailnet that are let in.
    pub(crate) fn set_logins(
        &self,
        logins: &TailscaleLogins,
        tenants: &BTreeMap<String, Arc<Tenant>>,
    ) {
        let tenant = |slug: &str| tenants.get(slug).cloned();
        let next = match logins {
            TailscaleLogins::Nobody => Logins::default(),
            TailscaleLogins::Everybody => Logins {
                everybody: tenant(gateway_config::MAIN_TENANT),
                listed: HashMap::new(),
            },
            TailscaleLogins::Listed(listed) => Logins {
                everybody: None,
                listed: listed
                    .iter()
                    .filter_map(|(login, slug)| Some((self.login_hash(login), tenant(slug)?)))
                    .collect(),
            },
        };
        self.logins.store(Arc::new(next));
    }

    fn login_hash(&self, login: &str) -> CredentialHash {
        // Apart from the hashes of secrets, which hold no such character.
        credential_hash(&self.key, &format!("tailnet login\n{login}"))
    }

    /// Whether and as whom a login that Tailscale vouches for is let in.
    pub(crate) fn admit_login(&self, login: &str, hint: &TenantHint) -> Option<Authenticated> {
        let hash = self.login_hash(login);
        let tenant = self
            .logins
            .load()
            .owner(&hash)
            .filter(|tenant| hint.admits(tenant))
            .cloned();
        if tenant.is_none() {
            self.failures.inc();
        }
        Some(Authenticated {
            tenant: tenant?,
            proof: Proof::Login(hash),
            method: "tailscale",
            ceiling: ScopeSet::parse(LOGIN_SCOPES),
            key: None,
        })
    }

    /// Whether what once let a connection of `tenant` in would still do so.
    #[must_use]
    pub fn still_admits(&self, tenant: &Tenant, proof: &Proof) -> bool {
        match proof {
            Proof::Open => self
                .open_tenant
                .load()
                .as_ref()
                .is_some_and(|open| open.id() == tenant.id()),
            Proof::Credential(hash) => self
                .owner(hash)
                .is_some_and(|found| found.tenant.id() == tenant.id()),
            Proof::Login(hash) => self
                .logins
                .load()
                .owner(hash)
                .is_some_and(|found| found.id() == tenant.id()),
            Proof::Proxied(user) => self.proxied.load().still_admits(tenant, user),
            Proof::Setup(_) => false,
            Proof::Device(hash) => self
                .shared
                .device_tokens
                .find(hash)
                .is_some_and(|found| found.tenant == *tenant.id()),
        }
    }

    /// Whether a connection that is a paired device still is one in its role.
    pub(crate) fn still_paired(
        &self,
        tenant: &Tenant,
        role: Role,
        device: Option<&DevicePass>,
    ) -> bool {
        device.is_none_or(|pass| {
            self.shared
                .device_tokens
                .find(&pass.token)
                .is_some_and(|found| {
                    found.tenant == *tenant.id() && found.role == role && found.device == pass.id
                })
        })
    }

    /// Told whenever some credential may have ended or begun.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.api_keys.changes()
    }

    fn owner(&self, hash: &CredentialHash) -> Option<Owner> {
        // The maps are searched by a hash that an outsider can neither choose nor predict; the full comparison is
        // constant time.
        if let Some(found) = self.credentials.load().get(hash) {
            return bool::from(found.hash.ct_eq(hash)).then(|| Owner {
                tenant: found.tenant.clone(),
                kind: found.kind,
                key: None,
                local: found.local,
            });
        }
        let key = self.shared.api_keys.find(hash)?;
        let same = bool::from(key.row().hash.0.ct_eq(hash));
        if !same || key.expired(self.clock.now_ms()) {
            return None;
        }
        let tenant = self.tenants.load().get(&key.row().tenant)?.clone();
        Some(Owner {
            tenant,
            kind: CredentialKind::ApiKey,
            key: Some(key),
            local: false,
        })
    }

    fn verify(&self, secret: &str, surface: Surface) -> Option<(Owner, CredentialHash)> {
        if secret.is_empty() || secret.len() > AUTH_CREDENTIAL_MAX_BYTES {
            return None;
        }
        let hash = credential_hash(&self.key, secret);
        // Keys are for programs over HTTP and JSON-RPC; elsewhere one is as wrong as any other text.
        let takes_keys = !matches!(surface, Surface::V4 | Surface::Internal);
        self.owner(&hash)
            .filter(|owner| takes_keys || owner.key.is_none())
            .map(|owner| (owner, hash))
    }

    /// The token of the device that the attempt says it is; clients put it into either field, or into both.
    fn device_token(&self, a: &AuthAttempt<'_>) -> Option<Authenticated> {
        let (device, role) = a.device?;
        [a.device_token, a.token]
            .into_iter()
            .flatten()
            .filter(|token| !token.is_empty() && token.len() <= AUTH_CREDENTIAL_MAX_BYTES)
            .find_map(|token| {
                let hash = self.shared.device_tokens.hash(token);
                let found = self.shared.device_tokens.find(&hash)?;
                if *found.device != *device || found.role != role {
                    return None;
                }
                let tenant = self.tenants.load().get(&found.tenant)?.clone();
                a.tenant_hint.admits(&tenant).then(|| Authenticated {
                    tenant,
                    proof: Proof::Device(hash),
                    method: "device-token",
                    ceiling: found.scopes,
                    key: None,
                })
            })
    }

    /// The setup code whose credential the attempt gives. It is used up, once, when the device has proven itself.
    fn setup_code(&self, a: &AuthAttempt<'_>) -> Option<Authenticated> {
        a.device?;
        let token = a
            .bootstrap_token
            .filter(|t| !t.is_empty() && t.len() <= AUTH_CREDENTIAL_MAX_BYTES)?;
        let hash = self.shared.device_tokens.hash(token);
        let now_ms = self.clock.now_ms();
        let owner = self.shared.device_tokens.find_code(&hash, now_ms)?;
        let tenant = self.tenants.load().get(&owner)?.clone();
        a.tenant_hint.admits(&tenant).then(|| Authenticated {
            tenant,
            proof: Proof::Setup(hash),
            method: "bootstrap-token",
            ceiling: ScopeSet::NONE,
            key: None,
        })
    }

    /// Checks one attempt.
    ///
    /// # Errors
    /// The answer for the caller; it does not say whether another tenant knows the credential.
    pub fn authenticate(&self, a: &AuthAttempt<'_>) -> Result<Authenticated, AuthRefusal> {
        let result = self.decide(a);
        if result.is_err() {
            self.failures.inc();
        }
        result
    }

    fn decide(&self, a: &AuthAttempt<'_>) -> Result<Authenticated, AuthRefusal> {
        let hinted = |tenant: &Arc<Tenant>| a.tenant_hint.admits(tenant);
        if let Some(tenant) = self.open_tenant.load_full()
            && hinted(&tenant)
            && a.loopback
            && a.origin.is_none()
        {
            return Ok(Authenticated {
                tenant,
                proof: Proof::Open,
                method: "none",
                ceiling: ScopeSet::ALL,
                key: None,
            });
        }
        let given: Vec<&str> = [a.token, a.password].into_iter().flatten().collect();
        let by_device = a.device_token.is_some() || a.bootstrap_token.is_some();
        match self
            .proxied
            .load()
            .decide(&self.key, a.tenant_hint, a.vouched)
        {
            Some(Ok(found)) => return Ok(found),
            // What a proxy signs users in by itself (`Authorization: Basic …`) is no credential of ours, and comes here as an empty one.
            Some(Err(error)) if given.iter().all(|secret| secret.is_empty()) && !by_device => {
                return Err(refusal(error));
            }
            Some(Err(_)) | None => {}
        }
        if given.is_empty() && !(by_device && a.device.is_some()) {
            return Err(refusal(missing(a)));
        }
        let class = match a.surface {
            Surface::JsonRpcHttp | Surface::OpenAi | Surface::Http => CredentialClass::HttpBearer,
            _ => CredentialClass::SharedSecret,
        };
        let exempt = a.loopback && a.origin.is_none();
        let place = if exempt {
            None
        } else {
            match self
                .limiter
                .reserve(a.peer, class, self.clock.monotonic_ms())
            {
                Ok(place) => Some(place),
                Err(wait_ms) => return Err(refusal(rate_limited(wait_ms))),
            }
        };
        let found = given
            .into_iter()
            .find_map(|secret| self.verify(secret, a.surface))
            .filter(|(owner, _)| hinted(&owner.tenant) && (!owner.local || exempt));
        match found {
            Some((owner, hash)) => {
                if let Some(place) = place {
                    place.succeeded();
                }
                if let Some(key) = &owner.key {
                    self.shared.api_keys.used(key, self.clock.now_ms());
                }
                Ok(Authenticated {
                    tenant: owner.tenant,
                    proof: Proof::Credential(hash),
                    method: owner.kind.as_str(),
                    ceiling: owner.key.as_ref().map_or(ScopeSet::ALL, |key| key.scopes()),
                    key: owner.key,
                })
            }
            None => {
                if let Some(found) = self.device_token(a).or_else(|| self.setup_code(a)) {
                    if let Some(place) = place {
                        place.succeeded();
                    }
                    return Ok(found);
                }
                if let Some(place) = place {
                    place.failed();
                }
                Err(refusal(mismatch(a)))
            }
        }
    }
}

fn refusal(error: RpcError) -> AuthRefusal {
    AuthRefusal { error }
}

fn missing(a: &AuthAttempt<'_>) -> RpcError {
    match a.surface {
        // Existing clients know these for a connect without any credential.
        Surface::V4 if a.device.is_some() => AuthReason::TokenMissing.error(false),
        Surface::V4 => RpcError::new(
            DetailCode::DeviceIdentityRequired,
            "device identity required",
        ),
        _ => RpcError::new(
            DetailCode::AuthTokenMissing,
            "unauthorized: gateway token missing (provide gateway auth token)",
        )
        .with("authReason", "token_missing")
        .with("canRetryWithDeviceToken", false)
        .with("recommendedNextStep", "update_auth_configuration"),
    }
}

fn mismatch(a: &AuthAttempt<'_>) -> RpcError {
    let reason = match (a.device, a.device_token, a.token) {
        (Some(_), Some(_), _) => AuthReason::DeviceTokenMismatch,
        (Some(_), None, None) if a.bootstrap_token.is_some() => AuthReason::BootstrapTokenInvalid,
        (_, _, Some(_)) => AuthReason::TokenMismatch,
        _ => AuthReason::PasswordMismatch,
    };
    // A client that keeps a device token tries that next, if it did not just now.
    let other = reason == AuthReason::TokenMismatch && a.device.is_some();
    reason.error(other)
}

fn rate_limited(wait_ms: u64) -> RpcError {
    RpcError::new(
        DetailCode::AuthRateLimited,
        "unauthorized: too many failed authentication attempts (retry later)",
    )
    .with("authReason", "rate_limited")
    .with("canRetryWithDeviceToken", false)
    .with("recommendedNextStep", "wait_then_retry")
    .retry_after_ms(wait_ms)
}

/// The scopes of a new connection: what it asks for, but never more than its credential may have. Unknown names
/// grant nothing; a probe gets none.
#[must_use]
pub fn effective_scopes<S: AsRef<str>>(requested: &[S], ceiling: ScopeSet, mode: &str) -> ScopeSet {
    if mode == "probe" {
        return ScopeSet::NONE;
    }
    requested
        .iter()
        .filter_map(|name| name.as_ref().parse().ok())
        .filter(|scope| ceiling.allows(*scope))
        .collect()
}
