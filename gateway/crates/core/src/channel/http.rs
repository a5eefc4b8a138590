//! HTTP for guests: allow rules, secrets put in at the edge, and what comes back.
//!
//! A rule comes from the plugin's manifest or from the operator's `http.allow` of the account. A secret goes only where
//! the matching rule names it: into the path of that rule, or into a header of a request that the rule matches. The guest
//! writes `{secret:NAME}` and never sees a value; a value that the peer sends back is masked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use gateway_config::Secret;
use gateway_egress::{
    AddressPolicy, Egress, EgressError, EgressRequest, ErrorKind, HeaderMap, HeaderName,
    HeaderValue, Method, Timeouts, UrlRule, UrlTemplate,
};
use gateway_wasm::{FaultKind, GuestRequest, GuestResponse, HttpFault, Manifest};
use tokio::sync::Semaphore;

use super::limits::{GUEST_HTTP_IN_FLIGHT_PER_TENANT, GUEST_HTTP_RESPONSE_MAX_BYTES};

/// What stands where a secret was in an answer.
pub const MASK: &str = "[secret]";
/// Secrets shorter than this are not masked in answers: every short text would match.
const MASK_MIN_BYTES: usize = 6;
/// Time that the connection to a guest's peer may take to be set up.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Rule {
    url: UrlRule,
    policy: Arc<AddressPolicy>,
    secrets: Vec<String>,
}

/// The HTTP rights of one account.
pub struct HttpGrant {
    rules: Vec<Rule>,
    secrets: BTreeMap<String, Secret>,
    egress: Egress,
    partition: Arc<str>,
    permits: Arc<Semaphore>,
}

impl std::fmt::Debug for HttpGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpGrant({} rules)", self.rules.len())
    }
}

/// Permits shared by all accounts of one tenant.
#[must_use]
pub fn tenant_permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(GUEST_HTTP_IN_FLIGHT_PER_TENANT))
}

impl HttpGrant {
    /// Joins what the manifest asks for and what the operator grants.
    ///
    /// Secrets that verify webhooks can be put in nowhere: whoever learns them can forge messages.
    ///
    /// # Errors
    /// A text that names the rule which can't be read.
    pub fn new(
        manifest: &Manifest,
        allow: &[String],
        allow_private: bool,
        secrets: BTreeMap<String, Secret>,
        egress: Egress,
        partition: Arc<str>,
        permits: Arc<Semaphore>,
    ) -> Result<Self, String> {
        let verifying: Vec<&str> = manifest
            .webhooks
            .values()
            .flat_map(|route| route.verify.iter())
            .map(|rule| rule.secret())
            .collect();
        let mut rules = Vec::new();
        for rule in &manifest.http {
            let text = format!(
                "{} {}://{}{}",
                rule.methods.join("|"),
                rule.scheme,
                rule.host,
                rule.path
            );
            let url = UrlRule::parse(&text)
                .map_err(|error| format!("net.http rule {text:?} of the plugin: {error}"))?;
            let policy = Arc::new(AddressPolicy::exact(vec![url.host_port(false)]));
            rules.push(Rule {
                url,
                policy,
                secrets: rule.secrets.clone(),
            });
        }
        for text in allow {
            let url =
                UrlRule::parse(text).map_err(|error| format!("http.allow {text:?}: {error}"))?;
            let policy = Arc::new(AddressPolicy::exact(vec![url.host_port(allow_private)]));
            let names = secrets
                .keys()
                .filter(|name| !verifying.contains(&name.as_str()))
                .cloned()
                .collect();
            rules.push(Rule {
                url,
                policy,
                secrets: names,
            });
        }
        Ok(Self {
            rules,
            secrets,
            egress,
            partition,
            permits,
        })
    }

    /// Makes one exchange for the guest. `sent` becomes true before the first byte of the request may leave.
    ///
    /// # Errors
    /// [`HttpFault`]; its text holds no secret.
    pub async fn fetch(
        &self,
        request: GuestRequest,
        sent: &AtomicBool,
    ) -> Result<GuestResponse, HttpFault> {
        let (mut wire, used) = self.prepare(request)?;
        wire.max_response_bytes = GUEST_HTTP_RESPONSE_MAX_BYTES;
        let Ok(_permit) = self.permits.clone().try_acquire_owned() else {
            return Err(fault(
                FaultKind::Limit,
                format!(
                    "http: {GUEST_HTTP_IN_FLIGHT_PER_TENANT} requests of this tenant are under way"
                ),
            ));
        };
        let response = self
            .egress
            .request(wire, sent)
            .await
            .map_err(|error| from_egress(&error))?;
        let headers = response
            .headers
            .iter()
            .filter_map(|(name, value)| {
                Some((
                    name.as_str().to_owned(),
                    self.mask_text(value.to_str().ok()?, &used),
                ))
            })
            .collect();
        Ok(GuestResponse {
            status: response.status,
            headers,
            body: self.mask_bytes(&response.body, &used),
        })
    }

    fn prepare(&self, request: GuestRequest) -> Result<(EgressRequest, Vec<String>), HttpFault> {
        let invalid = |text: String| fault(FaultKind::Invalid, text);
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| invalid("unknown method".into()))?;
        let template =
            UrlTemplate::parse(&request.url).map_err(|error| invalid(error.to_string()))?;
        let Some(rule) = self
            .rules
            .iter()
            .find(|rule| rule.url.matches(&method, &template))
        else {
            return Err(fault(
                FaultKind::Denied,
                format!(
                    "{method} {} is not on the allow-list: the plugin's manifest (net.http) or `http.allow` of this account in gateway.json5 would allow it",
                    template.origin()
                ),
            ));
        };
        let mut used: Vec<String> = template.secrets().into_iter().map(str::to_owned).collect();
        let url = template
            .expand(&|name| {
                self.secrets
                    .get(name)
                    .map(|secret| secret.expose().to_owned())
            })
            .map_err(|error| fault(FaultKind::Denied, error.to_string()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid(format!("{name:?} is not a header name")))?;
            let value = self.insert_secrets(value, rule, &mut used)?;
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| invalid(format!("the value of header {name} is not allowed")))?;
            value.set_sensitive(true);
            headers.append(header, value);
        }
        let deadline = Duration::from_millis(u64::from(request.timeout_ms));
        let mut wire = EgressRequest::new(self.partition.clone(), method, url, rule.policy.clone());
        wire.headers = headers;
        wire.body = Bytes::from(request.body);
        wire.deadline = deadline;
        // A long poll is silent for as long as it lasts: the deadline of the exchange is what bounds it.
        wire.timeouts = Timeouts {
            connect: CONNECT.min(deadline),
            head: deadline,
            idle: deadline,
        };
        Ok((wire, used))
    }

    fn insert_secrets(
        &self,
        value: &str,
        rule: &Rule,
        used: &mut Vec<String>,
    ) -> Result<String, HttpFault> {
        let mut out = String::with_capacity(value.len());
        let mut rest = value;
        while let Some((before, after)) = rest.split_once("{secret:") {
            let Some((name, tail)) = after.split_once('}') else {
                return Err(fault(
                    FaultKind::Invalid,
                    "the brace of a {secret:NAME} is not closed".into(),
                ));
            };
            if !rule.secrets.iter().any(|allowed| allowed == name) {
                return Err(fault(
                    FaultKind::Denied,
                    format!(
                        "secret {name:?} may not be sent to this address: no rule for it names the secret"
                    ),
                ));
            }
            let Some(secret) = self.secrets.get(name) else {
                return Err(fault(
                    FaultKind::Denied,
                    format!(
                        "secret {name:?} is not set: add it to `secrets` of this account in gateway.json5"
                    ),
                ));
            };
            out.push_str(before);
            out.push_str(secret.expose());
            used.push(name.to_owned());
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn mask_text(&self, text: &str, used: &[String]) -> String {
        let mut out = text.to_owned();
        for value in self.values(used) {
            out = out.replace(&value, MASK);
        }
        out
    }

    fn mask_bytes(&self, body: &[u8], used: &[String]) -> Vec<u8> {
        let mut out = body.to_vec();
        for value in self.values(used) {
            out = replace_bytes(&out, value.as_bytes());
        }
        out
    }

    /// The forms in which the secrets of a request can come back.
    fn values(&self, used: &[String]) -> Vec<String> {
        use base64::Engine as _;
        let mut values = Vec::new();
        for secret in used.iter().filter_map(|name| self.secrets.get(name)) {
            let plain = secret.expose();
            if plain.len() < MASK_MIN_BYTES {
                continue;
            }
            let percent: String = plain
                .bytes()
                .map(|byte| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        char::from(byte).to_string()
                    }
                    _ => format!("%{byte:02X}"),
                })
                .collect();
            let json = serde_json::Value::from(plain).to_string();
            values.push(json.trim_matches('"').to_owned());
            values.push(percent);
            values.push(base64::engine::general_purpose::STANDARD.encode(plain));
            values.push(plain.to_owned());
        }
        // The longest form first, so that a form that holds another is replaced whole.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.dedup();
        values
    }
}

fn replace_bytes(body: &[u8], needle: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    while at < body.len() {
        if body[at..].starts_with(needle) {
            out.extend_from_slice(MASK.as_bytes());
            at += needle.len();
        } else {
            out.push(body[at]);
            at += 1;
        }
    }
    out
}

fn fault(kind: FaultKind, text: String) -> HttpFault {
    HttpFault {
        kind,
        request_sent: false,
        text,
    }
}

fn from_egress(error: &EgressError) -> HttpFault {
    let kind = match error.kind {
        ErrorKind::Url | ErrorKind::Request => FaultKind::Invalid,
        ErrorKind::NotAllowed | ErrorKind::Address => FaultKind::Denied,
        ErrorKind::Dns => FaultKind::Dns,
        ErrorKind::Connect => FaultKind::Connect,
        ErrorKind::Tls => FaultKind::Tls,
        ErrorKind::Busy => FaultKind::Limit,
        ErrorKind::HeadTimeout
        | ErrorKind::IdleTimeout
        | ErrorKind::Deadline
        | ErrorKind::TooSlow => FaultKind::Timeout,
        ErrorKind::TooLarge => FaultKind::TooLarge,
        ErrorKind::Broken => FaultKind::Protocol,
    };
    HttpFault {
        kind,
        request_sent: error.request_sent,
        text: error.message.clone(),
    }
}
