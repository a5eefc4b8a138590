//! Where messages come from. The account's secret goes into the secret store; an unknown sender never reaches the agent.

use gateway_config::{
    AccountSettings, Secret, Settings, channel_secret_name, channels_add, secret_set,
};
use serde_json::{Value, json};

use super::progress::{Progress, Step};
use super::{Args, ChannelChoice, Setup, ask, from_env, from_stdin, set};
use crate::cli::output::Failure;
use crate::cli::secret::note;

/// What happens to who writes first.
const PAIRING: &str = "an unknown sender gets a one-time code and reaches no agent; `gateway pairing approve CODE` lets the sender in";
/// Fewest characters of a Telegram bot's token behind its number.
const TELEGRAM_SECRET_MIN_CHARS: usize = 30;

fn account<'s>(settings: &'s Settings, kind: &str, name: &str) -> Option<&'s AccountSettings> {
    let accounts = &settings.main().channels;
    accounts
        .iter()
        .find(|a| a.kind == kind && a.account == name)
}

/// The flags that are needed where nobody can be asked.
pub fn missing(args: &Args, progress: &Progress, settings: Option<&Settings>) -> Vec<&'static str> {
    match args.channel {
        None if progress.has(Step::Channel) => Vec::new(),
        None => vec!["--channel none, webhook or telegram"],
        Some(ChannelChoice::None | ChannelChoice::Webhook) => Vec::new(),
        Some(ChannelChoice::Telegram) => {
            let given = args.channel_token_env.is_some() || args.channel_token_stdin;
            let set = settings
                .and_then(|s| account(s, "telegram", &args.account))
                .is_some_and(|a| a.enabled);
            match given || set {
                true => Vec::new(),
                false => vec!["--channel-token-env VAR or --channel-token-stdin"],
            }
        }
    }
}

pub fn step(setup: &mut Setup<'_>) -> Result<(), Failure> {
    if setup.decided(Step::Channel, setup.args.channel.is_some()) {
        let accounts: Vec<String> = setup
            .settings
            .main()
            .channels
            .iter()
            .filter(|a| a.enabled)
            .map(|a| format!("{}/{}", a.kind, a.account))
            .collect();
        let text = match accounts.is_empty() {
            true => "none (as before)".to_owned(),
            false => format!("{} (as before)", accounts.join(", ")),
        };
        setup.steps.push(
            json!({ "step": "channel", "changed": false, "accounts": accounts, "text": text }),
        );
        return Ok(());
    }
    let choice = match setup.args.channel {
        Some(choice) => choice,
        None => {
            ask::say(&format!("\nWho may write: {PAIRING}."))?;
            match ask::choice(
                "Where are messages to come from, besides the built-in page and `gateway chat`?",
                &[
                    (
                        "none",
                        "nowhere for now; `gateway channels add` adds one later",
                    ),
                    ("webhook", "programs that post signed messages"),
                    (
                        "telegram",
                        "a Telegram bot (its token comes from @BotFather)",
                    ),
                ],
                "none",
            )? {
                "webhook" => ChannelChoice::Webhook,
                "telegram" => ChannelChoice::Telegram,
                _ => ChannelChoice::None,
            }
        }
    };
    let told = match choice {
        ChannelChoice::None => json!({ "step": "channel", "is": "none", "changed": false }),
        ChannelChoice::Webhook => webhook(setup)?,
        ChannelChoice::Telegram => telegram(setup)?,
    };
    setup.done(Step::Channel, told)
}

fn told(kind: &str, name: &str, changed: bool) -> Value {
    json!({
        "step": "channel", "is": kind, "accountId": name, "changed": changed,
        "text": format!("{kind}/{name}: {PAIRING}"),
    })
}

/// Lets an account that is written and off count.
fn enable(setup: &mut Setup<'_>, kind: &str, name: &str) -> Result<bool, Failure> {
    setup.write(vec![set(
        &["channels", kind, "accounts", name, "enabled"],
        Some(json!(true)),
    )])
}

/// Writes an account that is not there.
fn add(setup: &mut Setup<'_>, kind: &str, name: &str) -> Result<(), Failure> {
    channels_add(&setup.state_dir, &setup.global.tenant, kind, name)?;
    setup.settings = setup.file.load()?;
    setup
        .changed
        .push(format!("channels.{kind}.accounts.{name}"));
    Ok(())
}

fn webhook(setup: &mut Setup<'_>) -> Result<Value, Failure> {
    let name = setup.args.account.clone();
    let changed = match account(&setup.settings, "webhook", &name).map(|a| a.enabled) {
        Some(true) => false,
        Some(false) => enable(setup, "webhook", &name)?,
        None => {
            add(setup, "webhook", &name)?;
            true
        }
    };
    setup.notes.push(format!(
        "signed messages go to POST /channels/webhook/{name}/inbound; its signing secret is {}",
        setup
            .state_dir
            .join("secrets/main")
            .join(format!("webhook-{name}-{}", channel_secret_name("webhook")))
            .display()
    ));
    Ok(told("webhook", &name, changed))
}

fn telegram(setup: &mut Setup<'_>) -> Result<Value, Failure> {
    let name = setup.args.account.clone();
    let had = account(&setup.settings, "telegram", &name).cloned();
    let secret = channel_secret_name("telegram");
    let token = if let Some(variable) = &setup.args.channel_token_env {
        Some(from_env("--channel-token-env", variable)?)
    } else if setup.args.channel_token_stdin {
        Some(from_stdin("--channel-token-stdin")?)
    } else if had.as_ref().is_some_and(|a| a.enabled) {
        None
    } else {
        Some(ask::secret("bot token")?)
    };
    let mut changed = false;
    if let Some(token) = token {
        if !looks_like_a_token(&token) {
            setup.notes.push(
                "this does not look like a token of @BotFather (NUMBER:LETTERS); if the bot does not come up, `gateway channels status` says what Telegram answers"
                    .to_owned(),
            );
        }
        let same = had
            .as_ref()
            .and_then(|a| a.secrets.get(secret))
            .is_some_and(|had| had.expose() == token);
        if !same {
            // First: an account that names a secret which is not there would be refused.
            let stored = format!("telegram-{name}-{secret}");
            let done = secret_set(
                &setup.state_dir,
                &setup.global.tenant,
                &stored,
                &Secret::new(token),
            )?;
            note(
                &setup.state_dir,
                &setup.global.tenant,
                &stored,
                done.replaced,
            )?;
            setup
                .notes
                .extend(done.warning.map(|w| format!("the bot token: {w}")));
            setup.changed.push(format!("secret {stored}"));
            changed = true;
        }
    }
    match had.map(|a| a.enabled) {
        Some(true) => {}
        Some(false) => changed |= enable(setup, "telegram", &name)?,
        None => {
            add(setup, "telegram", &name)?;
            changed = true;
        }
    }
    Ok(told("telegram", &name, changed))
}

fn looks_like_a_token(token: &str) -> bool {
    token.split_once(':').is_some_and(|(number, rest)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && rest.len() >= TELEGRAM_SECRET_MIN_CHARS
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_bots_are_told_from_other_texts() {
        assert!(looks_like_a_token(&format!("123456:{}", "aB-_9".repeat(7))));
        for not in [
            "",
            "123456",
            ":aaaa",
            "12a:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            "1:short",
        ] {
            assert!(!looks_like_a_token(not), "{not}");
        }
    }
}
