//! Whose an address of the tailnet is, as `tailscale whois` says. Answers are kept for a short time, so that a crowd of requests
//! starts no crowd of programs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Tailscale;
use crate::limits::{WHOIS_AT_ONCE, WHOIS_KEEP_MS, WHOIS_MAX_ENTRIES, WHOIS_RETRY_MS};

/// Tailscale's name for what belongs to no person.
const TAGGED: &str = "tagged-devices";

pub(super) struct Whois {
    known: Mutex<HashMap<IpAddr, Known>>,
    places: Semaphore,
}

#[derive(Clone)]
struct Known {
    until: Instant,
    login: Option<Arc<str>>,
}

impl Default for Whois {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            places: Semaphore::new(WHOIS_AT_ONCE),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    user_profile: Option<Profile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Profile {
    #[serde(default)]
    login_name: String,
}

impl Whois {
    fn get(&self, address: &IpAddr) -> Option<Option<Arc<str>>> {
        let known = self.known.lock();
        let found = known.get(address)?;
        (Instant::now() < found.until).then(|| found.login.clone())
    }

    fn put(&self, address: IpAddr, login: Option<Arc<str>>) {
        let keep = match login {
            Some(_) => WHOIS_KEEP_MS,
            None => WHOIS_RETRY_MS,
        };
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= WHOIS_MAX_ENTRIES {
            known.retain(|_, k| now < k.until);
        }
        if known.len() >= WHOIS_MAX_ENTRIES {
            known.clear();
        }
        known.insert(
            address,
            Known {
                until: now + Duration::from_millis(keep),
                login,
            },
        );
    }
}

impl Tailscale {
    /// The login of the person whose this address is; `None` where Tailscale names nobody.
    pub(super) async fn whose(&self, address: IpAddr) -> Option<Arc<str>> {
        if let Some(known) = self.whois.get(&address) {
            return known;
        }
        let _place = self.whois.places.acquire().await.ok()?;
        // Somebody else may have asked meanwhile.
        if let Some(known) = self.whois.get(&address) {
            return known;
        }
        let login = match self
            .call(&["whois", "--json", &address.to_string()], None)
            .await
        {
            Ok(said) => login(&said),
            Err(why) => {
                tracing::warn!(why, "tailscale: whose an address is was not told");
                None
            }
        };
        self.whois.put(address, login.clone());
        login
    }
}

fn login(said: &[u8]) -> Option<Arc<str>> {
    let answer: Answer = serde_json::from_slice(said).ok()?;
    let login = answer.user_profile?.login_name;
    (!login.is_empty() && login != TAGGED).then(|| Arc::from(login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_persons_have_a_login() {
        let of = |text: &str| login(text.as_bytes());
        assert_eq!(
            of(r#"{"Node":{},"UserProfile":{"LoginName":"una@example.org"}}"#).as_deref(),
            Some("una@example.org")
        );
        for nobody in [
            r#"{"UserProfile":{"LoginName":"tagged-devices"}}"#,
            r#"{"UserProfile":{"LoginName":""}}"#,
            r#"{"UserProfile":null}"#,
            "{}",
            "not json",
        ] {
            assert_eq!(of(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let whois = Whois::default();
        for n in 0..=u32::try_from(WHOIS_MAX_ENTRIES).unwrap_or(0) * 2 {
            whois.put(IpAddr::from(n.to_be_bytes()), Some(Arc::from("una")));
        }
        assert!(whois.known.lock().len() <= WHOIS_MAX_ENTRIES);
    }
}
