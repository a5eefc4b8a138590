//! The side of the program that is started in an upgrade.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use gateway_core::host::GuestsAhead;
use gateway_store::{SchemaVersions, StateDir, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{LOOK_MS, ROLE_ENV};
use crate::cli::output::{Exit, Failure};

/// The part that this process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum Role {
    /// It goes on after a gateway that has these schemas.
    #[serde(rename_all = "camelCase")]
    Heir {
        /// Of `host.sqlite`.
        host_schema: usize,
        /// Of the tenants' files.
        tenant_schema: usize,
    },
    /// It goes on because the program that should have did not: nobody listens to what it prints, nobody is before it.
    Resume,
}

impl Role {
    /// That of a successor of this build.
    pub fn heir() -> Self {
        let SchemaVersions { host, tenant } = SchemaVersions::ours();
        Self::Heir {
            host_schema: host,
            tenant_schema: tenant,
        }
    }

    /// What the environment says; `None` for a usual start.
    ///
    /// # Errors
    /// A variable that cannot be read.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        let Some(text) = env(ROLE_ENV).filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|_| {
            Failure::new(
                Exit::Usage,
                format!("{ROLE_ENV} is not for people, and says nothing that this version knows"),
                format!("unset {ROLE_ENV}"),
            )
        })
    }

    /// As the variable has it.
    pub fn text(self) -> String {
        // A value of two numbers always has a text.
        serde_json::to_string(&self).unwrap_or_default()
    }
}

/// A process that goes on after the gateway that runs still.
#[derive(Debug)]
pub struct Heir {
    host_schema: usize,
    tenant_schema: usize,
}

/// What a successor says, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "handover")]
pub enum Report {
    /// All that needs no store is ready.
    #[serde(rename_all = "camelCase")]
    Prepared {
        /// Version of the program.
        version: String,
        /// Schema of `host.sqlite` after its start.
        host_schema: usize,
        /// Schema of the tenants' files after its start.
        tenant_schema: usize,
    },
    /// Connections are accepted.
    Serving,
    /// It cannot go on.
    Failed {
        /// Why.
        message: String,
        /// What to do.
        next: String,
    },
}

impl Report {
    /// Says it. Where nobody listens any more it does not matter.
    pub fn say(&self) {
        let line = serde_json::to_value(self).unwrap_or(Value::Null);
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// What the line of a successor says; `None` for other lines.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

impl Heir {
    /// `None` unless this process is one.
    pub fn of(role: Option<Role>) -> Option<Self> {
        match role {
            Some(Role::Heir {
                host_schema,
                tenant_schema,
            }) => Some(Self {
                host_schema,
                tenant_schema,
            }),
            _ => None,
        }
    }

    /// Whether this build can open what the running gateway wrote.
    ///
    /// # Errors
    /// The schema that is newer.
    pub fn check_schemas(&self) -> Result<(), Failure> {
        let ours = SchemaVersions::ours();
        for (what, theirs, ours) in [
            ("host.sqlite", self.host_schema, ours.host),
            ("the tenants' files", self.tenant_schema, ours.tenant),
        ] {
            if theirs > ours {
                return Err(Failure::new(
                    Exit::Failure,
                    format!(
                        "{what}: the running gateway writes schema {theirs}, this program knows up to {ours}"
                    ),
                    "take a program that is at least as new; to go back, restore a backup made by the older version",
                ));
            }
        }
        Ok(())
    }

    /// Says that everything is ready, and gives the state directory as soon as the gateway before has left it.
    ///
    /// # Errors
    /// A state directory that cannot be used.
    pub async fn inherit(&self, state_dir: &Path) -> Result<StateDir, StoreError> {
        let ours = SchemaVersions::ours();
        Report::Prepared {
            version: gateway::VERSION.to_owned(),
            host_schema: ours.host,
            tenant_schema: ours.tenant,
        }
        .say();
        loop {
            match StateDir::open(state_dir) {
                // Whoever waits too long for this process ends it.
                Err(StoreError::Locked(_)) => {
                    tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
                }
                done => return done,
            }
        }
    }

    /// Connections are accepted.
    pub fn serves(&self) {
        Report::Serving.say();
    }

    /// It did not work; the words also go to whoever started this process.
    pub fn fails(failure: &Failure) {
        Report::Failed {
            message: failure.message.clone(),
            next: failure.next.clone(),
        }
        .say();
    }
}

/// Guests that are loaded, with the settings that they were loaded for.
pub struct Ahead {
    guests: Option<GuestsAhead>,
    wanted: Value,
}

impl Ahead {
    /// Loads the guests of these settings. What fails here fails again, and is told, when they are loaded for the start.
    pub async fn load(state_dir: &Path, settings: &gateway_config::Settings) -> Self {
        let cache = Some(state_dir.join("cache").join("plugins"));
        let bundled = gateway::bundled_plugins();
        let loaded = GuestsAhead::load(state_dir, settings, bundled, cache).await;
        if let Err(error) = &loaded {
            tracing::warn!(%error, "guests are not loaded ahead");
        }
        Self {
            guests: loaded.ok(),
            wanted: wanted(settings),
        }
    }

    /// The guests, if they are those of `settings`: these may have changed since.
    pub fn for_settings(self, settings: &gateway_config::Settings) -> Option<GuestsAhead> {
        self.guests.filter(|_| self.wanted == wanted(settings))
    }
}

fn wanted(settings: &gateway_config::Settings) -> Value {
    json!([
        settings.plugins_dir,
        settings.plugins_bundled,
        settings.plugin_pins,
        settings.plugins_pinned_only
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_role_is_what_the_environment_says() {
        let from = |text: Option<&str>| {
            let text = text.map(str::to_owned);
            Role::from_env(move |_| text.clone())
        };
        assert_eq!(from(None).unwrap(), None);
        assert_eq!(from(Some("")).unwrap(), None);
        for role in [Role::heir(), Role::Resume] {
            assert_eq!(from(Some(&role.text())).unwrap(), Some(role));
        }
        assert_eq!(from(Some("1")).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_newer_schema_is_not_taken_over() {
        let ours = SchemaVersions::ours();
        let heir = |host_schema, tenant_schema| Heir {
            host_schema,
            tenant_schema,
        };
        assert!(heir(ours.host, ours.tenant).check_schemas().is_ok());
        assert!(heir(ours.host - 1, ours.tenant - 1).check_schemas().is_ok());
        for newer in [
            heir(ours.host + 1, ours.tenant),
            heir(ours.host, ours.tenant + 1),
        ] {
            let refused = newer.check_schemas().unwrap_err();
            assert!(refused.message.contains("schema"), "{refused:?}");
        }
    }

    #[test]
    fn reports_are_lines_that_are_told_from_others() {
        for report in [
            Report::Serving,
            Report::Failed {
                message: "m".to_owned(),
                next: "n".to_owned(),
            },
            Report::Prepared {
                version: "1".to_owned(),
                host_schema: 1,
                tenant_schema: 2,
            },
        ] {
            let line = serde_json::to_vec(&report).unwrap();
            assert_eq!(Report::parse(&line), Some(report));
        }
        assert_eq!(Report::parse(b"listening"), None);
        assert_eq!(Report::parse(b"{}"), None);
    }
}
