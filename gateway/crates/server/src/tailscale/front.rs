//! Requests that Tailscale brought: they come from this machine and are not of this machine. What tells them apart is the whole
//! set of its headers together with our name; half of it is refused like any proxy that nobody configured.

use std::net::IpAddr;
use std::sync::Arc;

use gateway_config::TailscaleMode;
use gateway_core::auth::Authenticated;
use gateway_protocol::error::{DetailCode, RpcError};
use http::{HeaderMap, header};

use super::{Name, Tailscale, peer};
use crate::guard::Socket;

/// What is known of a request that came through the name.
#[derive(Clone)]
pub(crate) struct Front {
    /// Whose request Tailscale says it is.
    pub(crate) client: IpAddr,
    pub(crate) name: Arc<Name>,
    /// Who it is, where that was asked for.
    pub(crate) identity: Option<Identity>,
}

/// Whose a request is by its tailnet.
#[derive(Clone)]
pub(crate) enum Identity {
    /// Tailscale vouches for this login.
    Login(Arc<str>),
    /// It does not.
    Refused(DetailCode, &'static str),
}

impl Identity {
    /// The answer for who gives no credential.
    pub(crate) fn admit(&self, ask: &crate::http::Ask) -> Result<Authenticated, RpcError> {
        match self {
            Self::Login(login) => ask.app.host.admit_login(login, &ask.hint).ok_or_else(|| {
                refusal(
                    DetailCode::AuthTailscaleIdentityMismatch,
                    "unauthorized: this login is not let in (gateway.tailscale.logins)",
                )
            }),
            Self::Refused(code, why) => Err(refusal(*code, why)),
        }
    }
}

fn refusal(code: DetailCode, why: &str) -> RpcError {
    let reason = match code {
        DetailCode::AuthTailscaleWhoisFailed => "tailscale_whois_failed",
        _ => "tailscale_user_mismatch",
    };
    RpcError::new(code, why)
        .with("authReason", reason)
        .with("canRetryWithDeviceToken", false)
        .with("recommendedNextStep", "review_auth_configuration")
}

impl Tailscale {
    /// The request as Tailscale brought it; `None` for any other.
    pub(crate) fn front(&self, socket: &Socket, headers: &HeaderMap) -> Option<Front> {
        let name = self.name.load_full()?;
        if !socket.loopback() {
            return None;
        }
        let host = one(headers, header::HOST.as_str())?;
        let through = name.is(host)
            && one(headers, "x-forwarded-host").is_some_and(|host| name.is(host))
            && one(headers, "x-forwarded-proto") == Some("https");
        let client: IpAddr = one(headers, "x-forwarded-for")?.parse().ok()?;
        through.then_some(Front {
            client: client.to_canonical(),
            name,
            identity: None,
        })
    }

    /// Whose the request is: the login that it names, if Tailscale says the same of its address. `None` where it names none.
    pub(crate) async fn identify(
        &self,
        socket: &Socket,
        client: IpAddr,
        headers: &HeaderMap,
    ) -> Option<Identity> {
        if self.settings.mode != TailscaleMode::Serve || !headers.contains_key(USER_LOGIN) {
            return None;
        }
        let failed = |why| Some(Identity::Refused(DetailCode::AuthTailscaleWhoisFailed, why));
        let mismatch = |why| {
            Some(Identity::Refused(
                DetailCode::AuthTailscaleIdentityMismatch,
                why,
            ))
        };
        let Some(named) = one(headers, USER_LOGIN) else {
            return mismatch("unauthorized: the request names two logins");
        };
        if !peer::may_vouch(socket) {
            return mismatch("unauthorized: this request did not come from Tailscale");
        }
        match self.whose(client).await {
            None => failed("unauthorized: Tailscale does not say whose this address is"),
            Some(login) if *login == *named => Some(Identity::Login(login)),
            Some(_) => mismatch("unauthorized: Tailscale knows another login for this address"),
        }
    }
}

/// The header that names the login.
const USER_LOGIN: &str = "tailscale-user-login";

/// The only value of a header.
fn one<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
