//! Whether the running gateway goes on with what was written: it takes an edit up by itself, or says what is wrong with it.

use std::time::{Duration, Instant};

use gateway_config::{Settings, redacted_tenant_json};
use serde_json::{Value, json};

use crate::cli::output::Failure;
use crate::cli::{Global, target};

/// Longest wait for the gateway to take an edit up, in ms.
const TAKE_UP_MAX_MS: u64 = 10_000;
/// Pause between two looks, in ms.
const LOOK_EVERY_MS: u64 = 100;

/// What the operator should know; nothing where the gateway goes on with these settings.
pub async fn taken_up(global: &Global, wanted: &Settings) -> Option<String> {
    match look(global, wanted).await {
        Ok(None) => None,
        Ok(Some(why)) => Some(why),
        Err(failure) => Some(format!(
            "whether the running gateway took it up is not known: {}",
            failure.message
        )),
    }
}

async fn look(global: &Global, wanted: &Settings) -> Result<Option<String>, Failure> {
    let wanted = redacted_tenant_json(wanted, wanted.main());
    let client = target::connect(global, &["config.get"]).await?;
    let until = Instant::now() + Duration::from_millis(TAKE_UP_MAX_MS);
    let outcome = loop {
        let now: Value = client.request("config.get", json!({})).await?;
        let same = ["agents", "channels"]
            .iter()
            .all(|part| now["config"][part] == wanted[part]);
        if same {
            break None;
        }
        if now["valid"] == false {
            let why = now["issues"][0]["message"]
                .as_str()
                .unwrap_or("no reason given");
            break Some(format!(
                "the running gateway does not take this up and goes on as before: {why}"
            ));
        }
        if Instant::now() >= until {
            break Some(
                "the running gateway goes on with something else (a flag of `gateway serve` wins over the file); `gateway status` says more"
                    .to_owned(),
            );
        }
        tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
    };
    client.close().await;
    Ok(outcome)
}
