//! Setup codes: made by an operator with admin, good for one device, once, for ten minutes, with rights that are fixed when
//! it is made. Kept is a keyed hash.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_protocol::frame::Close;
use gateway_protocol::methods::connect::{AuthReason, ConnectRefusal};
use gateway_protocol::methods::device_setup::{SetupAccess, SetupPayload};
use gateway_protocol::scope::{Scope, ScopeSet};
use gateway_store::{CredentialHash, SetupCodeRow, StoreError};
use serde_json::json;

use super::book::{Change, Claim, Refusal, names};
use super::{Failed, GivenToken, Operator, Paired, change, commit, loaded, mint, paired, resolved};
use crate::audit::Audit;
use crate::cx::Role;
use crate::limits::{SETUP_CODE_TTL_MS, SETUP_URL_MAX_BYTES};
use crate::tenant::Tenant;

/// What an operator gets by a limited code; a full one adds admin.
const LIMITED: [Scope; 4] = [
    Scope::Approvals,
    Scope::Read,
    Scope::TalkSecrets,
    Scope::Write,
];

/// The roles and scopes of a code.
#[must_use]
pub fn grants(access: SetupAccess) -> Vec<(Role, ScopeSet)> {
    let limited: ScopeSet = LIMITED.into_iter().collect();
    let operator = match access {
        SetupAccess::Node => None,
        SetupAccess::Limited => Some(limited),
        SetupAccess::Full => Some(limited.iter().chain([Scope::Admin]).collect()),
    };
    let node = (Role::Node, ScopeSet::NONE);
    let operator = operator.map(|scopes| (Role::Operator, scopes));
    [Some(node), operator].into_iter().flatten().collect()
}

/// The address that a code leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) url: String,
    port: u16,
    /// Whether the way there is encrypted.
    tls: bool,
}

impl Place {
    /// Reads `wss://host[:port][/path]`, or `ws://` to this machine. `None` for all else: what stands in a code is opened by
    /// whoever scans it.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let (name, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (ip, after) = rest.split_once(']')?;
                ip.parse::<Ipv6Addr>().ok()?;
                (ip, (!after.is_empty()).then_some(after))
            }
            None => match authority.find(':') {
                Some(at) => (&authority[..at], Some(&authority[at..])),
                None => (authority, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        let in_path = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '@' | '\\' | '"');
        let here = name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = match scheme {
            "wss" => true,
            "ws" if here => false,
            _ => return None,
        };
        let port = match port {
            Some(port) => port.strip_prefix(':')?.parse().ok().filter(|p| *p > 0)?,
            None if tls => 443,
            None => 80,
        };
        let good = !name.is_empty()
            && url.len() <= SETUP_URL_MAX_BYTES
            && name.chars().all(plain)
            && rest.chars().all(in_path);
        good.then(|| Self {
            url: url.to_owned(),
            port,
            tls,
        })
    }

    /// Where devices reach this tenant, and what says so: its name in a tailnet, its first host name, or the address that the
    /// gateway listens on. `None` where it is for this machine only.
    pub(crate) fn own(tenant: &Tenant) -> Option<(Self, &'static str)> {
        let process = &tenant.shared().process_health;
        let path = match tenant.slug() {
            gateway_config::MAIN_TENANT => String::new(),
            slug => format!("/t/{slug}/"),
        };
        if let Some(url) = process.tailscale().and_then(|name| name.url) {
            let name = url.strip_prefix("https://")?.trim_end_matches('/');
            return Some((Self::parse(&format!("wss://{name}{path}"))?, "tailscale"));
        }
        let listener = process.listener().filter(|listener| listener.tls)?;
        let addresses = (listener.addresses)();
        let first = addresses.first()?;
        let (name, path, source) = match tenant.settings().hosts.first() {
            Some(host) => (host.clone(), String::new(), "tenant-host"),
            None if first.is_ipv6() => (format!("[{first}]"), path, "bind"),
            None => (first.to_string(), path, "bind"),
        };
        let url = format!("wss://{name}:{}{path}", listener.port);
        Some((Self::parse(&url)?, source))
    }

    /// The certificate that is shown there, where it is the listener's own: behind another port stands somebody else's.
    fn fingerprint(&self, tenant: &Tenant) -> Option<String> {
        let process = &tenant.shared().process_health;
        let own = process.listener()?.port == self.port;
        let certificate = process.tls()?;
        (self.tls && own).then_some(certificate.fingerprint)
    }
}

/// A setup code that was made.
pub(crate) struct Made {
    pub(crate) row: SetupCodeRow,
    /// The text for the device.
    pub(crate) code: String,
}

/// Makes a code for this address.
pub(crate) async fn make(
    tenant: &Arc<Tenant>,
    by: &Operator,
    access: SetupAccess,
    place: &Place,
) -> Result<Made, Failed> {
    let shared = tenant.shared();
    let mut secret = [0_u8; 32];
    shared.random.fill(&mut secret);
    let token = URL_SAFE_NO_PAD.encode(secret);
    let hash = CredentialHash(shared.device_tokens.hash(&token));
    let id = tenant.new_id();
    let ceiling = by.ceiling;
    let object = json!({ "setupId": id, "access": access.as_str() });
    let (_, row) = change(tenant, by, object, false, move |_, _, now| {
        let beyond = grants(access)
            .into_iter()
            .flat_map(|(_, scopes)| scopes.iter().collect::<Vec<_>>())
            .find(|scope| !ceiling.allows(*scope));
        if let Some(scope) = beyond {
            return Err(Refusal::Beyond(scope));
        }
        let row = SetupCodeRow {
            id,
            hash,
            access: access.as_str().to_owned(),
            created_at: now,
            expires_at: now.saturating_add(SETUP_CODE_TTL_MS),
            used_at: None,
            device_id: None,
            device_name: None,
        };
        Ok((vec![Change::Code(row.clone())], row))
    })
    .await?;
    let payload = SetupPayload {
        url: place.url.clone(),
        bootstrap_token: token,
        expires_at_ms: Some(row.expires_at),
        tls_fingerprint: place.fingerprint(tenant),
    };
    let text = serde_json::to_vec(&payload).unwrap_or_default();
    Ok(Made {
        row,
        code: URL_SAFE_NO_PAD.encode(text),
    })
}

/// Uses a code for a device that proved itself. It is a task of its own, because what was written has to be shown, whether the
/// device still waits or not.
pub(crate) async fn redeem(
    tenant: &Arc<Tenant>,
    claim: Claim,
    hash: CredentialHash,
) -> Result<Paired, ConnectRefusal> {
    let owner = tenant.clone();
    let task = tenant
        .tasks()
        .spawn(async move { use_up(&owner, claim.bounded(), hash).await });
    task.await.unwrap_or_else(|_| {
        let error = crate::rpc::error::store(tenant, &StoreError::Closed);
        Err(ConnectRefusal::closing(error, Close::POLICY))
    })
}

/// The device, its tokens and the end of the code are one commit, so that of two who come with one code one is let in.
async fn use_up(
    tenant: &Arc<Tenant>,
    claim: Claim,
    hash: CredentialHash,
) -> Result<Paired, ConnectRefusal> {
    let failed = |error: StoreError| {
        let error = match error {
            StoreError::Limit(_) => super::too_many_devices(),
            error => crate::rpc::error::store(tenant, &error),
        };
        ConnectRefusal::closing(error, Close::POLICY)
    };
    // One answer for a code that was used, has ended, is for another role or for less: whoever guesses learns nothing.
    let invalid = || ConnectRefusal::unauthorized(AuthReason::BootstrapTokenInvalid, false);
    let _turn = tenant.devices().turn.lock().await;
    let book = loaded(tenant).await.map_err(failed)?;
    let now = tenant.now_ms();
    let code = book
        .codes()
        .find(|c| c.hash == hash && c.used_at.is_none() && c.expires_at > now)
        .ok_or_else(invalid)?;
    let access = SetupAccess::from_name(&code.access).ok_or_else(invalid)?;
    let grants = grants(access);
    let (_, scopes) = grants
        .iter()
        .find(|(role, _)| *role == claim.role)
        .ok_or_else(invalid)?;
    if claim.role == Role::Operator && !claim.scopes.is_within(*scopes) {
        return Err(invalid());
    }
    let mut changes = Vec::new();
    let mut next = (*book).clone();
    for (role, scopes) in &grants {
        let asks = Claim {
            role: *role,
            scopes: *scopes,
            ..claim.clone()
        };
        let minted = mint(tenant, &claim.device_id, *role);
        for change in next.approve_silently(&asks, "bootstrap", minted, now) {
            next.apply(&change, now);
            changes.push(change);
        }
    }
    changes.push(Change::CodeUsed(SetupCodeRow {
        used_at: Some(now),
        device_id: Some(claim.device_id.clone()),
        device_name: claim.display_name.clone(),
        ..code.clone()
    }));
    let setup_id = code.id.clone();
    let audit = Audit::by_itself(tenant, "device.pair.setup");
    let object =
        json!({ "setupId": setup_id, "deviceId": claim.device_id, "access": access.as_str() });
    let (next, ended) = commit(tenant, &book, changes, &audit, object)
        .await
        .map_err(failed)?;
    if ended {
        tenant.shared().api_keys.tell_change();
    }
    resolved(tenant, &setup_id, &claim.device_id, "approved");
    let device = next.device(&claim.device_id).ok_or_else(invalid)?;
    let token = device.token(claim.role).ok_or_else(invalid)?;
    let mut result = paired(tenant, &claim, device, token);
    result.others = device
        .roles()
        .filter(|role| *role != claim.role)
        .filter_map(|role| device.token(role))
        .map(|t| GivenToken {
            device_token: tenant.shared().device_tokens.token(
                tenant.id(),
                &device.row.id,
                &t.role,
                &t.salt,
            ),
            role: t.role.clone(),
            scopes: names(ScopeSet::parse(&t.scopes)),
            issued_at_ms: t.issued_at,
        })
        .collect();
    Ok(result)
}
