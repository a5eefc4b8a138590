//! `gateway apikey create | list | revoke`

use clap::Subcommand;
use gateway_core::cron::schedule::{parse_duration, rfc3339};
use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, print, table, text};
use super::{Global, secret, target};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key for a program, and print its secret: the only time that it is shown.
    Create {
        /// What the key is called; once per tenant.
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What the key may do: read, write (default), admin, or a scope by its whole name; may be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// The only agent that the key may use.
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        /// Time after which the key is worth nothing, as 30d or 12h (default: never).
        #[arg(long, value_name = "PERIOD", value_parser = period)]
        expires: Option<i64>,
    },
    /// The keys of the tenant, without their secrets.
    List,
    /// End a key at once, with everything that it let in.
    Revoke {
        /// Id or name of the key.
        key: String,
    },
}

fn period(text: &str) -> Result<i64, String> {
    match parse_duration(text) {
        Ok(ms) if ms > 0 => Ok(ms),
        Ok(_) => Err("the time must be longer than nothing".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// `read` means `operator.read`.
pub fn whole_name(scope: &str) -> String {
    if scope.contains('.') && scope.starts_with("operator") {
        scope.to_owned()
    } else {
        format!("operator.{scope}")
    }
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create {
            name,
            scopes,
            agent,
            expires,
        } => {
            let mut params = json!({ "name": name });
            if !scopes.is_empty() {
                let names: Vec<String> = scopes.iter().map(|s| whole_name(s)).collect();
                params["scopes"] = json!(names);
            }
            if let Some(agent) = agent {
                params["agentId"] = json!(agent);
            }
            if let Some(ms) = expires {
                params["expiresInMs"] = json!(ms);
            }
            let result = target::call(global, "apikeys.create", params).await?;
            if result["secret"].as_str().is_none_or(str::is_empty) {
                return Err(Failure::new(
                    Exit::Failure,
                    "the gateway made a key and told no secret",
                    "revoke it (`gateway apikey list`) and check the versions of both sides",
                ));
            }
            // The secret alone is the output, so that a script can take it as it is.
            print(global.json, &result, |r| text(r, "secret"))?;
            if !global.json {
                let key = &result["key"];
                secret::warn(Some(&format!(
                    "key {} ({}) for {}; the secret is shown only now",
                    clean(&text(key, "name")),
                    text(key, "id"),
                    scopes_of(key)
                )));
            }
            Ok(())
        }
        Command::List => {
            let result = target::call(global, "apikeys.list", json!({})).await?;
            print(global.json, &result, |r| {
                let rows: Vec<Vec<String>> = r["keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|key| {
                        vec![
                            text(key, "id"),
                            text(key, "name"),
                            scopes_of(key),
                            text(key, "agentId"),
                            when(key, "lastUsedAt", "never"),
                            match key["expired"].as_bool() {
                                Some(true) => "ended".to_owned(),
                                _ => when(key, "expiresAt", "-"),
                            },
                        ]
                    })
                    .collect();
                table(
                    &["ID", "NAME", "SCOPES", "AGENT", "LAST USED", "UNTIL"],
                    &rows,
                    "there are no API keys; make one with `gateway apikey create --name NAME`",
                )
            })
        }
        Command::Revoke { key } => {
            let result = target::call(global, "apikeys.revoke", json!({ "key": key })).await?;
            print(global.json, &result, |r| {
                format!(
                    "{} has ended, and everything that it let in",
                    clean(&text(r, "name"))
                )
            })
        }
    }
}

fn scopes_of(key: &Value) -> String {
    let names: Vec<&str> = key["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    names.join(" ")
}

fn when(key: &Value, member: &str, none: &str) -> String {
    key[member]
        .as_i64()
        .map_or_else(|| none.to_owned(), rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_may_be_short() {
        assert_eq!(whole_name("read"), "operator.read");
        assert_eq!(whole_name("operator.admin"), "operator.admin");
        assert_eq!(whole_name("talk.secrets"), "operator.talk.secrets");
        assert!(period("0s").is_err() && period("soon").is_err());
        assert_eq!(period("2d"), Ok(172_800_000));
    }
}
