//! The claim: the name is taken when it is free, looked at now and then, taken again when it was lost, never taken away from
//! somebody else, and given back at the stop where that is wanted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gateway_config::TailscaleMode;
use gateway_config::durable::{self, Existing};
use gateway_core::host::Host;
use gateway_protocol::methods::system::{PartState, TailscaleHealth};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{Name, Tailscale};
use crate::limits::{TAILSCALE_LOOK_MS, TAILSCALE_WITHDRAW_MAX_MS};

/// What `tailscale status --json` says, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    #[serde(default)]
    backend_state: String,
    #[serde(rename = "Self")]
    own: Option<Own>,
}

#[derive(Deserialize)]
struct Own {
    #[serde(default, rename = "DNSName")]
    dns_name: String,
}

/// What `tailscale serve status --json` says, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Serves {
    web: BTreeMap<String, Web>,
    allow_funnel: BTreeMap<String, bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Web {
    handlers: BTreeMap<String, Handler>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Handler {
    proxy: String,
}

/// Where a claim is.
pub(crate) struct Claim {
    pub(crate) host: Weak<Host>,
    /// The address that requests are brought to.
    pub(crate) target: String,
    /// What was claimed last stands here, so that what a killed gateway left is known to be ours.
    pub(crate) record: PathBuf,
}

impl Tailscale {
    /// Holds the name until `stop`.
    pub(crate) async fn hold(self: Arc<Self>, claim: Claim, stop: CancellationToken) {
        loop {
            let seen = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                seen = self.take(&claim) => seen,
            };
            self.publish(&claim, seen);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(TAILSCALE_LOOK_MS)) => {}
            }
        }
        let held = self.name.swap(None).is_some();
        if held && self.settings.reset_on_exit {
            self.withdraw(&claim).await;
        }
    }

    fn publish(&self, claim: &Claim, seen: Result<Name, String>) {
        let (state, url, message) = match &seen {
            Ok(name) => (PartState::Ok, Some(name.url()), None),
            Err(why) => (PartState::Degraded, None, Some(why.clone())),
        };
        let before = self.name.load_full();
        match &seen {
            Ok(name) if before.as_deref() == Some(name) => {}
            Ok(name) => tracing::info!(url = name.url(), mode = self.mode(), "tailscale: served"),
            Err(why) => tracing::warn!(why, "tailscale: not served; everything else goes on"),
        }
        self.name.store(seen.ok().map(Arc::new));
        if let Some(host) = claim.host.upgrade() {
            host.set_tailscale_health(TailscaleHealth {
                state,
                mode: self.mode().to_owned(),
                url,
                message,
            });
        }
    }

    fn mode(&self) -> &'static str {
        self.settings.mode.as_str()
    }

    fn port_flag(&self) -> String {
        format!("--https={}", self.settings.https_port)
    }

    /// The name, when it is ours now.
    async fn take(&self, claim: &Claim) -> Result<Name, String> {
        let name = self.own_name().await?;
        let place = format!("{}:{}", name.host, name.port);
        let funnel = self.settings.mode == TailscaleMode::Funnel;
        let serves = self.serves().await?;
        let open = serves.allow_funnel.get(&place).copied().unwrap_or(false);
        match proxy(&serves, &place) {
            Some(target) if target == claim.target && open == funnel => return Ok(name),
            Some(target) if target != claim.target && !self.is_ours(claim, target) => {
                return Err(format!(
                    "{place} serves something else ({target}): choose another gateway.tailscale.httpsPort, or end that with `tailscale serve {} off`",
                    self.port_flag()
                ));
            }
            Some(_) if open && !funnel => {
                // Serving the same again leaves a funnel open.
                let port = self.port_flag();
                self.call(&["funnel", &port, "off"], None).await?;
            }
            _ => {}
        }
        // Before: a gateway that is killed in between finds what it has begun.
        self.remember(claim)?;
        let port = self.port_flag();
        self.call(&[self.mode(), "--bg", "--yes", &port, &claim.target], None)
            .await?;
        let serves = self.serves().await?;
        match proxy(&serves, &place) {
            Some(target) if target == claim.target => Ok(name),
            _ => Err(format!(
                "tailscale {} said yes, and {place} does not lead here: see `tailscale serve status`",
                self.mode()
            )),
        }
    }

    async fn own_name(&self) -> Result<Name, String> {
        let said = self.call(&["status", "--json"], None).await?;
        let status: Status = serde_json::from_slice(&said)
            .map_err(|_| "tailscale status: not the JSON that was expected".to_owned())?;
        match status.backend_state.as_str() {
            "Running" => {}
            "NeedsLogin" | "NoState" => {
                return Err(
                    "this machine is logged out of Tailscale: run `tailscale up`".to_owned(),
                );
            }
            "Stopped" => return Err("Tailscale is stopped: run `tailscale up`".to_owned()),
            other => {
                return Err(format!(
                    "Tailscale does not run yet ({})",
                    super::told(other.as_bytes())
                ));
            }
        }
        let host = status
            .own
            .map(|own| own.dns_name.trim_end_matches('.').to_ascii_lowercase())
            .filter(|host| is_host(host))
            .ok_or_else(|| {
                "this machine has no name in the tailnet: turn MagicDNS and HTTPS on for it"
                    .to_owned()
            })?;
        Ok(Name {
            host,
            port: self.settings.https_port,
        })
    }

    async fn serves(&self) -> Result<Serves, String> {
        let said = self.call(&["serve", "status", "--json"], None).await?;
        if said.iter().all(u8::is_ascii_whitespace) {
            return Ok(Serves::default());
        }
        serde_json::from_slice::<Option<Serves>>(&said)
            .map(Option::unwrap_or_default)
            .map_err(|_| "tailscale serve status: not the JSON that was expected".to_owned())
    }

    fn remember(&self, claim: &Claim) -> Result<(), String> {
        claim
            .record
            .parent()
            .map_or(Ok(()), durable::create_dirs)
            .and_then(|()| {
                durable::write(&claim.record, claim.target.as_bytes(), Existing::Replace)
            })
            .map(|_| ())
            .map_err(|e| format!("{}: {e}", claim.record.display()))
    }

    fn is_ours(&self, claim: &Claim, target: &str) -> bool {
        std::fs::read_to_string(&claim.record).is_ok_and(|had| had == target)
    }

    async fn withdraw(&self, claim: &Claim) {
        let port = self.port_flag();
        let done = self
            .call(
                &[self.mode(), &port, "off"],
                Some(TAILSCALE_WITHDRAW_MAX_MS),
            )
            .await;
        match done {
            Ok(_) => {
                // A record that stays names a target that nobody serves.
                let _ = std::fs::remove_file(&claim.record);
                tracing::info!("tailscale: the name was given back");
            }
            Err(why) => tracing::warn!(why, "tailscale: the name was not given back"),
        }
    }
}

fn proxy<'s>(serves: &'s Serves, place: &str) -> Option<&'s str> {
    let handlers = &serves.web.get(place)?.handlers;
    // Whatever else is served there is not the gateway's either.
    let (_, handler) = handlers.get_key_value("/").or(handlers.iter().next())?;
    Some(&handler.proxy)
}

fn is_host(host: &str) -> bool {
    host.len() <= 253
        && host.contains('.')
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}
