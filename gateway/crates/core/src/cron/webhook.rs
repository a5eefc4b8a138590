//! POST requests of schedules: what a job sends, and how an outcome is delivered. Addresses are those that the operator
//! allowed in the configuration; secrets are named there and put in here.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use gateway_config::CronWebhookSettings;
use gateway_egress::{
    AddressPolicy, EgressRequest, HeaderName, HeaderValue, Method, Timeouts, UrlRule, UrlTemplate,
};
use serde_json::Value;

use super::limits::{WEBHOOK_ANSWER_MAX_BYTES, WEBHOOK_DEADLINE_MS};
use crate::tenant::Tenant;

/// Whether the configuration allows this address.
///
/// # Errors
/// A text that names the key to change.
pub(super) fn check(settings: &CronWebhookSettings, url: &str) -> Result<(), String> {
    rule(settings, url).map(drop)
}

fn rule(settings: &CronWebhookSettings, url: &str) -> Result<(UrlRule, UrlTemplate), String> {
    let template = UrlTemplate::parse(url).map_err(|error| error.to_string())?;
    if !template.secrets().is_empty() {
        return Err("a secret can't be part of the address; name it in `secret`".to_owned());
    }
    settings
        .allow
        .iter()
        .filter_map(|text| UrlRule::parse(text).ok())
        .find(|rule| rule.matches(&Method::POST, &template))
        .map(|rule| (rule, template.clone()))
        .ok_or_else(|| {
            format!(
                "POST {} is not allowed: add the address to cron.webhook.allow of the configuration",
                template.origin()
            )
        })
}

/// A try that did not work.
#[derive(Debug)]
pub(super) struct Refusal {
    /// For the log; holds no secret.
    pub text: String,
    /// Whether trying again may help.
    pub again: bool,
}

/// Posts `body`; 2xx is success. `run_id` goes along as `Idempotency-Key`, so that the other side can tell a repeat.
pub(super) async fn post(
    tenant: &Tenant,
    url: &str,
    run_id: &str,
    bearer: Option<&gateway_config::Secret>,
    body: &Value,
) -> Result<(), Refusal> {
    let never = |text: String| Refusal { text, again: false };
    let settings = tenant.settings();
    let hook = &settings.cron.webhook;
    let (rule, template) = rule(hook, url).map_err(never)?;
    let url = template
        .expand(&|_| None)
        .map_err(|error| never(error.to_string()))?;
    let policy = AddressPolicy::exact(vec![rule.host_port(hook.allow_private)]);
    let partition = format!("{}/cron", tenant.id().as_str());
    let mut request = EgressRequest::new(partition, Method::POST, url, policy.into());
    let mut header = |name: &'static str, text: &str| {
        HeaderValue::from_str(text)
            .map(|mut value| {
                value.set_sensitive(name == "authorization");
                request.headers.insert(HeaderName::from_static(name), value);
            })
            .map_err(|_| never(format!("the value of header {name} is not allowed")))
    };
    header("content-type", "application/json")?;
    header("idempotency-key", run_id)?;
    if let Some(secret) = bearer {
        header("authorization", &format!("Bearer {}", secret.expose()))?;
    }
    request.body = Bytes::from(body.to_string());
    request.max_response_bytes = WEBHOOK_ANSWER_MAX_BYTES;
    request.deadline = Duration::from_millis(WEBHOOK_DEADLINE_MS);
    request.timeouts = Timeouts {
        head: request.deadline,
        ..Timeouts::default()
    };
    let sent = AtomicBool::new(false);
    let answer = tenant
        .shared()
        .egress
        .request(request, &sent)
        .await
        .map_err(|error| Refusal {
            again: !matches!(
                error.kind,
                gateway_egress::ErrorKind::Url
                    | gateway_egress::ErrorKind::Request
                    | gateway_egress::ErrorKind::NotAllowed
                    | gateway_egress::ErrorKind::Address
            ),
            text: error.message,
        })?;
    match answer.status {
        200..=299 => Ok(()),
        status => Err(Refusal {
            text: format!("the webhook answered {status}"),
            again: matches!(status, 408 | 425 | 429 | 500..=599),
        }),
    }
}
