//! Schedules and heartbeats: as they are written, as they are resolved, and the way from one to the other.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::Secret;
use crate::load::Resolver;
use crate::options::SecretRef;
use crate::settings::AgentBackend;
use crate::source::join_key;
use crate::validate;

/// Time between two heartbeats where a model answers and nothing else is written, in ms.
const HEARTBEAT_DEFAULT_MS: u64 = 30 * 60_000;
/// Shortest time between two heartbeats, in ms.
const HEARTBEAT_MIN_MS: u64 = 30_000;
/// Longest time between two heartbeats, in ms.
const HEARTBEAT_MAX_MS: u64 = 31 * 86_400_000;

/// Schedules.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CronOptions {
    /// Whether jobs and heartbeats come due (default true). Without it they can be listed, changed and run by hand.
    pub enabled: Option<bool>,
    /// Where schedules may send POST requests.
    pub webhook: CronWebhookOptions,
}

/// Where schedules may send POST requests.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CronWebhookOptions {
    /// URL patterns such as `https://hooks.example.org/cron/*`. Empty means nowhere.
    pub allow: Vec<String>,
    /// Whether loopback and private addresses may be reached through `allow` (default false).
    pub allow_private: Option<bool>,
    /// Sent as bearer token with every delivery of an outcome.
    pub token: Option<SecretRef>,
    /// Secrets that a job with a webhook payload can name; sent as bearer token.
    pub secrets: BTreeMap<String, SecretRef>,
}

/// The heartbeat of an agent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeartbeatOptions {
    /// Time between two heartbeats, as `30m` or `1h` (default: `30m` where a model answers, `0m` for the echo agent). `0m`: none.
    pub every: Option<String>,
    /// What the agent is told; its default asks for what is due and for NO_REPLY where nothing is.
    pub prompt: Option<String>,
    /// Where news go: `owner` (default; the direct conversation last used by someone whom `allowFrom` or a pairing let in), `last` (the conversation last used), `none`, or a channel kind together with `to`.
    pub target: Option<String>,
    /// Conversation of a channel kind as target: `direct:ID`, `group:ID` or `channel:ID`.
    pub to: Option<String>,
    /// Account of the channel kind, where it has several.
    pub account_id: Option<String>,
    /// When there are heartbeats (default: always).
    pub active_hours: Option<ActiveHoursOptions>,
    /// Characters of a reply beside HEARTBEAT_OK up to which it counts as no news (default 300).
    #[schemars(range(min = 0, max = 10_000))]
    pub ack_max_chars: Option<u32>,
}

/// A part of the day.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ActiveHoursOptions {
    /// Begin as `HH:MM` (default `00:00`).
    pub start: Option<String>,
    /// End as `HH:MM` (default `24:00`); earlier than the begin: on the next day.
    pub end: Option<String>,
    /// IANA time zone (default UTC).
    pub timezone: Option<String>,
}

/// Resolved schedules of a tenant.
#[derive(Debug, Clone)]
pub struct CronSettings {
    /// Whether jobs and heartbeats come due.
    pub enabled: bool,
    /// Where they may send POST requests.
    pub webhook: CronWebhookSettings,
}

/// Where schedules may send POST requests.
#[derive(Debug, Clone, Default)]
pub struct CronWebhookSettings {
    /// URL patterns. Empty: nowhere.
    pub allow: Vec<String>,
    /// Whether loopback and private addresses may be reached through `allow`.
    pub allow_private: bool,
    /// Sent with every delivery.
    pub token: Option<Secret>,
    /// Secrets that a job can name.
    pub secrets: BTreeMap<String, Secret>,
}

/// The resolved heartbeat of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatSettings {
    /// Milliseconds between two; 0: there are none.
    pub every_ms: u64,
    /// What the agent is told; `None`: the default text.
    pub prompt: Option<String>,
    /// Where news go.
    pub target: HeartbeatTarget,
    /// When there are heartbeats; `None`: always.
    pub active_hours: Option<ActiveHours>,
    /// Characters beside HEARTBEAT_OK up to which a reply counts as no news.
    pub ack_max_chars: usize,
}

/// Where news of a heartbeat go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeartbeatTarget {
    /// The direct conversation last used by someone who was let in.
    Owner,
    /// The conversation last used.
    Last,
    /// Nowhere; they stand in the session.
    None,
    /// A conversation.
    Channel {
        /// Channel kind.
        kind: String,
        /// Its account; `None`: the only one.
        account: Option<String>,
        /// `direct:ID`, `group:ID` or `channel:ID`.
        to: String,
    },
}

impl HeartbeatTarget {
    /// The word in listings.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Owner => "owner",
            Self::Last => "last",
            Self::None => "none",
            Self::Channel { kind, .. } => kind,
        }
    }
}

/// A part of the day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveHours {
    /// Begin, minutes after midnight.
    pub start_minute: u32,
    /// End, minutes after midnight; not after the begin: on the next day.
    pub end_minute: u32,
    /// IANA time zone, known to exist.
    pub zone: String,
}

impl ActiveHours {
    /// Whether a minute of the day (0 to 1439) is in it.
    #[must_use]
    pub fn contains(&self, minute: u32) -> bool {
        if self.start_minute < self.end_minute {
            (self.start_minute..self.end_minute).contains(&minute)
        } else {
            minute >= self.start_minute || minute < self.end_minute
        }
    }
}

/// Milliseconds of `20m`, `1h30m`, `45s`, `500ms`, `2d`, `1w`; `None` where it is no length of time.
#[must_use]
pub fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(unit_ms)?)?;
        rest = tail;
    }
    Some(total)
}

/// Minutes after midnight of `HH:MM`.
fn minute_of(text: &str) -> Option<u32> {
    let (hour, minute) = text.trim().split_once(':')?;
    if hour.len() > 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= 24 * 60).then_some(all)
}

impl Resolver<'_> {
    pub(crate) fn cron(&mut self, path: &str, slug: &str, o: &CronOptions) -> CronSettings {
        let path = join_key(path, "cron");
        let hook = &o.webhook;
        for (i, pattern) in hook.allow.iter().enumerate() {
            if !validate::url_pattern(pattern) {
                self.bad(
                    &format!("{path}.webhook.allow[{i}]"),
                    "not a URL pattern",
                    "write https://host[:port]/path, with * only as the last character",
                );
            }
        }
        let mut secrets = BTreeMap::new();
        for (name, written) in &hook.secrets {
            let path = join_key(&format!("{path}.webhook.secrets"), name);
            if let Some(secret) = self.secret(&path, slug, written) {
                secrets.insert(name.clone(), secret);
            }
        }
        let token = hook
            .token
            .as_ref()
            .and_then(|written| self.secret(&format!("{path}.webhook.token"), slug, written));
        CronSettings {
            enabled: o.enabled.unwrap_or(true),
            webhook: CronWebhookSettings {
                allow: hook.allow.clone(),
                allow_private: hook.allow_private.unwrap_or(false),
                token,
                secrets,
            },
        }
    }

    pub(crate) fn heartbeat(
        &mut self,
        path: &str,
        o: &HeartbeatOptions,
        backend: &AgentBackend,
    ) -> HeartbeatSettings {
        let path = join_key(path, "heartbeat");
        let every_ms = match o.every.as_deref() {
            // An echo agent would only repeat the question.
            None if matches!(backend, AgentBackend::Echo) => 0,
            None => HEARTBEAT_DEFAULT_MS,
            Some(text) => match duration_ms(text) {
                Some(ms) if ms == 0 || (HEARTBEAT_MIN_MS..=HEARTBEAT_MAX_MS).contains(&ms) => ms,
                found => {
                    self.bad(
                        &format!("{path}.every"),
                        match found {
                            Some(_) => "must be 0m, or from 30s to 31d",
                            None => "not a length of time",
                        },
                        "write it as 30m or 1h, or 0m for no heartbeats",
                    );
                    0
                }
            },
        };
        let to = o.to.clone().filter(|to| !to.trim().is_empty());
        let target = match o.target.as_deref().map(str::trim) {
            None | Some("owner") => HeartbeatTarget::Owner,
            Some("last") => HeartbeatTarget::Last,
            Some("none") => HeartbeatTarget::None,
            Some(kind) => match to.clone() {
                Some(to) if !kind.is_empty() => HeartbeatTarget::Channel {
                    kind: kind.to_owned(),
                    account: o.account_id.clone().filter(|id| !id.is_empty()),
                    to,
                },
                _ => {
                    self.bad(
                        &format!("{path}.target"),
                        "a channel needs a conversation",
                        "add to: \"direct:ID\", or write owner, last or none",
                    );
                    HeartbeatTarget::None
                }
            },
        };
        if to.is_some() && !matches!(target, HeartbeatTarget::Channel { .. }) {
            self.bad(
                &format!("{path}.to"),
                "has a meaning only with a channel as target",
                "write target: \"KIND\", or leave it out",
            );
        }
        let active_hours = o.active_hours.as_ref().and_then(|hours| {
            let path = format!("{path}.activeHours");
            let start = hours.start.as_deref().unwrap_or("00:00");
            let end = hours.end.as_deref().unwrap_or("24:00");
            let (Some(start_minute), Some(end_minute)) = (minute_of(start), minute_of(end)) else {
                self.bad(&path, "not a time of day", "write start and end as HH:MM");
                return None;
            };
            let zone = hours.timezone.as_deref().unwrap_or("UTC");
            if zone.parse::<chrono_tz::Tz>().is_err() {
                self.bad(
                    &format!("{path}.timezone"),
                    "not a time zone",
                    "write a name such as Europe/Berlin or UTC",
                );
                return None;
            }
            if start_minute == end_minute {
                self.bad(
                    &path,
                    "begin and end are the same",
                    "leave activeHours out for the whole day, or write every: \"0m\" for no heartbeats",
                );
                return None;
            }
            Some(ActiveHours {
                start_minute,
                end_minute,
                zone: zone.to_owned(),
            })
        });
        HeartbeatSettings {
            every_ms,
            prompt: o.prompt.clone().filter(|text| !text.trim().is_empty()),
            target,
            active_hours,
            ack_max_chars: usize::try_from(o.ack_max_chars.unwrap_or(300)).unwrap_or(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, ms) in [
            ("0m", Some(0)),
            ("45s", Some(45_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1w", Some(604_800_000)),
            ("", None),
            ("5", None),
            ("m", None),
            ("1 h", None),
            ("-1m", None),
            ("99999999999999999999m", None),
        ] {
            assert_eq!(duration_ms(text), ms, "{text:?}");
        }
    }

    #[test]
    fn hours_may_go_over_midnight() {
        let hours = |start: &str, end: &str| ActiveHours {
            start_minute: minute_of(start).unwrap_or(9_999),
            end_minute: minute_of(end).unwrap_or(9_999),
            zone: "UTC".to_owned(),
        };
        let day = hours("08:00", "22:00");
        assert!(day.contains(480) && day.contains(1_319));
        assert!(!day.contains(479) && !day.contains(1_320));
        let night = hours("22:00", "6:30");
        assert!(night.contains(1_320) && night.contains(0) && night.contains(389));
        assert!(!night.contains(390) && !night.contains(1_319));
        assert!(hours("00:00", "24:00").contains(1_439));
        for text in ["24:01", "7", "07:60", "7:5", "x:00", "007:00"] {
            assert_eq!(minute_of(text), None, "{text}");
        }
    }
}
