//! Users whom a reverse proxy vouches for (mode `trusted-proxy`): whose proxy counts, what it has to say, and who is let in.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use gateway_config::{AuthMode, AuthSettings, PROXY_SECRET_HEADER};
use gateway_protocol::error::{DetailCode, RpcError};
use gateway_protocol::scope::ScopeSet;
use gateway_store::TenantId;
use subtle::ConstantTimeEq;

use super::{Authenticated, CredentialHash, Proof, credential_hash};
use crate::host::TenantHint;
use crate::tenant::Tenant;

/// What a configured proxy says about one request. Only such a proxy's words are in here.
#[derive(Debug, Clone, Default)]
pub struct Vouched {
    /// Whether the proxy is on this machine, where every program could pretend to be it.
    pub same_host: bool,
    /// The headers that the settings name, lower case; each was there just once.
    pub said: BTreeMap<String, String>,
}

/// The headers, lower case, that [`Vouched`] is made of, and whether one says who asks: such a one is for the gateway alone.
#[must_use]
pub fn headers_of<'a>(
    settings: impl IntoIterator<Item = &'a AuthSettings>,
) -> BTreeMap<String, bool> {
    let mut names = BTreeMap::new();
    for proxy in settings.into_iter().filter_map(|auth| auth.proxy.as_ref()) {
        for name in &proxy.required_headers {
            names.entry(name.clone()).or_insert(false);
        }
        names.insert(proxy.user_header.clone(), true);
        names.insert(PROXY_SECRET_HEADER.to_owned(), true);
    }
    names
}

struct Rules {
    tenant: Arc<Tenant>,
    user_header: String,
    required: BTreeSet<String>,
    /// `None`: everybody.
    users: Option<HashSet<CredentialHash>>,
    same_host: bool,
    secret: Option<CredentialHash>,
}

/// The tenants whose users a proxy vouches for.
#[derive(Default)]
pub(super) struct Proxied {
    rules: HashMap<TenantId, Rules>,
    /// There is no tenant with another mode.
    alone: bool,
}

impl Proxied {
    pub(super) fn of<'a>(
        key: &[u8; 32],
        tenants: impl IntoIterator<Item = (&'a Arc<Tenant>, &'a AuthSettings)>,
    ) -> Self {
        let mut rules = HashMap::new();
        let mut count = 0_usize;
        for (tenant, auth) in tenants {
            count += 1;
            let Some(proxy) = auth
                .proxy
                .as_ref()
                .filter(|_| auth.mode == AuthMode::TrustedProxy)
            else {
                continue;
            };
            rules.insert(
                tenant.id().clone(),
                Rules {
                    tenant: tenant.clone(),
                    user_header: proxy.user_header.clone(),
                    required: proxy.required_headers.clone(),
                    users: proxy
                        .allow_users
                        .as_ref()
                        .map(|users| users.iter().map(|user| user_hash(key, user)).collect()),
                    same_host: proxy.allow_loopback,
                    secret: proxy
                        .secret
                        .as_ref()
                        .map(|secret| secret_hash(key, secret.expose())),
                },
            );
        }
        Self {
            alone: count == rules.len(),
            rules,
        }
    }

    /// Whether a user who was let in still would be.
    pub(super) fn still_admits(&self, tenant: &Tenant, user: &CredentialHash) -> bool {
        self.rules
            .get(tenant.id())
            .is_some_and(|rules| rules.lets_in(user))
    }

    /// What follows for a request from what a proxy says of it. `None`: nothing, its own credentials count; that is also the answer
    /// for who names a tenant that asks for credentials.
    pub(super) fn decide(
        &self,
        key: &[u8; 32],
        hint: &TenantHint,
        vouched: Option<&Vouched>,
    ) -> Option<Result<Authenticated, RpcError>> {
        let hinted: Vec<&Rules> = self
            .rules
            .values()
            .filter(|rules| hint.admits(&rules.tenant))
            .collect();
        let Some(vouched) = vouched else {
            // Who is told more than that a credential is missing could learn how other tenants are let in.
            let only = self.alone && self.rules.len() == 1 && !hinted.is_empty();
            return only.then(|| Err(refusal(&Why::UntrustedSource)));
        };
        let mut found = Vec::new();
        let mut why = None;
        for rules in hinted {
            match rules.judge(key, vouched) {
                Ok(user) => found.push((rules, user)),
                Err(reason) => why = why.max(Some(reason)),
            }
        }
        match found[..] {
            // One who is a user of several tenants has to say which is meant, by host name or path.
            [(rules, user)] => Some(Ok(Authenticated {
                tenant: rules.tenant.clone(),
                proof: Proof::Proxied(user),
                method: "trusted-proxy",
                ceiling: ScopeSet::ALL,
                key: None,
            })),
            [] => why.map(|why| Err(refusal(&why))),
            _ => Some(Err(refusal(&Why::SeveralTenants))),
        }
    }
}

/// Why a proxy's word let nobody in; what comes later was reached after what comes before was in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    UntrustedSource,
    SameHost,
    Secret,
    Header(String),
    NoUser,
    UserNotAllowed,
    SeveralTenants,
}

fn refusal(why: &Why) -> RpcError {
    let (code, reason, text) = match why {
        Why::UntrustedSource => (
            DetailCode::AuthUnauthorized,
            "trusted_proxy_untrusted_source".to_owned(),
            "users come through the reverse proxy here, and this request did not (gateway.trustedProxies)".to_owned(),
        ),
        Why::SameHost => (
            DetailCode::AuthUnauthorized,
            "trusted_proxy_loopback_source".to_owned(),
            "a proxy on the gateway's own machine is not believed (gateway.auth.trustedProxy.allowLoopback and secret)".to_owned(),
        ),
        Why::Secret => (
            DetailCode::AuthUnauthorized,
            "trusted_proxy_secret_mismatch".to_owned(),
            "the proxy does not send its secret (gateway.auth.trustedProxy.secret)".to_owned(),
        ),
        Why::Header(name) => (
            DetailCode::AuthIdentityHeaderRequired,
            format!("trusted_proxy_missing_header_{name}"),
            format!("the proxy does not send {name}"),
        ),
        Why::NoUser => (
            DetailCode::AuthIdentityHeaderRequired,
            "trusted_proxy_user_missing".to_owned(),
            "the proxy does not say who the user is".to_owned(),
        ),
        Why::UserNotAllowed => (
            DetailCode::AuthUnauthorized,
            "trusted_proxy_user_not_allowed".to_owned(),
            "this user is not let in (gateway.auth.trustedProxy.allowUsers)".to_owned(),
        ),
        Why::SeveralTenants => (
            DetailCode::AuthUnauthorized,
            "trusted_proxy_tenant_ambiguous".to_owned(),
            "this user belongs to several tenants; name one by its host name or /t/<slug>/".to_owned(),
        ),
    };
    RpcError::new(code, format!("unauthorized: {text}"))
        .with("authReason", reason)
        .with("canRetryWithDeviceToken", false)
        .with("recommendedNextStep", "review_auth_configuration")
}

impl Rules {
    fn lets_in(&self, user: &CredentialHash) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }

    /// The user whom the proxy vouches for.
    fn judge(&self, key: &[u8; 32], vouched: &Vouched) -> Result<CredentialHash, Why> {
        if vouched.same_host && !self.same_host {
            return Err(Why::SameHost);
        }
        let said = |name: &str| {
            vouched
                .said
                .get(name)
                .map(|value| value.trim())
                .filter(|value| !value.is_empty())
        };
        if let Some(secret) = &self.secret {
            let given = said(PROXY_SECRET_HEADER).map(|given| secret_hash(key, given));
            if !given.is_some_and(|given| bool::from(given.ct_eq(secret))) {
                return Err(Why::Secret);
            }
        }
        if let Some(missing) = self.required.iter().find(|name| said(name).is_none()) {
            return Err(Why::Header(missing.clone()));
        }
        let user = said(&self.user_header).ok_or(Why::NoUser)?;
        let user = user_hash(key, user);
        self.lets_in(&user)
            .then_some(user)
            .ok_or(Why::UserNotAllowed)
    }
}

// Both apart from the hashes of credentials, which hold no such character.

fn user_hash(key: &[u8; 32], user: &str) -> CredentialHash {
    credential_hash(key, &format!("proxied user\n{user}"))
}

fn secret_hash(key: &[u8; 32], secret: &str) -> CredentialHash {
    credential_hash(key, &format!("proxy secret\n{secret}"))
}
