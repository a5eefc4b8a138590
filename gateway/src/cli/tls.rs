//! `gateway tls show`, `gateway tls rotate`: the certificate of the gateway of this state directory.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use gateway_client::CertPin;
use gateway_config::{Settings, TlsSettings, TlsSource};
use gateway_core::clock::{Clock, SystemClock};
use gateway_server::tls::{
    CertificateInfo, CertificateNames, PairFiles, TlsError, finish_next, make_own, prepare_next,
};
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, clean, print};
use crate::run_file::RunFile;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fingerprint, names, end and files; what clients pin.
    Show,
    /// Make the next certificate ahead, so that clients can pin both; later put it in place with --finish.
    Rotate {
        /// Put the prepared certificate in place. A running gateway takes it within two seconds; connections go on.
        #[arg(long, conflicts_with = "now")]
        finish: bool,
        /// Make one and put it in place at once: clients that pin only the old one are shut out.
        #[arg(long)]
        now: bool,
    },
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let place = Place::find(global)?;
    match command {
        Command::Show => place.show(global.json),
        Command::Rotate { finish, now } => place.rotate(finish, now, global.json),
    }
}

impl From<TlsError> for Failure {
    fn from(e: TlsError) -> Self {
        Self::new(Exit::Config, e.to_string(), e.next)
    }
}

/// The certificates of the files that a configuration names, as far as they can be read.
pub fn pins_of(tls: &TlsSettings, state_dir: &Path) -> Vec<CertPin> {
    let served = PairFiles::of(&tls.source, state_dir).cert;
    let next = PairFiles::next(state_dir).cert;
    [served, next]
        .iter()
        .filter_map(|file| CertificateInfo::read(file).ok())
        .map(|info| info.fingerprint)
        .collect()
}

struct Place {
    state_dir: PathBuf,
    settings: Settings,
    files: PairFiles,
    now_ms: i64,
}

impl Place {
    fn find(global: &Global) -> Result<Self, Failure> {
        let state_dir = std::path::absolute(global.state_dir()?)?;
        let settings = global.settings()?;
        Ok(Self {
            files: PairFiles::of(&settings.gateway.tls.source, &state_dir),
            now_ms: SystemClock::new().now_ms(),
            state_dir,
            settings,
        })
    }

    fn names(&self) -> CertificateNames {
        CertificateNames::of(&self.settings.gateway, self.settings.gateway.bind.ip())
    }

    fn next(&self) -> Option<CertificateInfo> {
        let ours = matches!(self.settings.gateway.tls.source, TlsSource::Own { .. });
        let file = PairFiles::next(&self.state_dir).cert;
        CertificateInfo::read(&file).ok().filter(|_| ours)
    }

    fn show(&self, as_json: bool) -> Result<(), Failure> {
        if !self.files.cert.exists() && self.files.cert == PairFiles::own(&self.state_dir).cert {
            return Err(Failure::new(
                Exit::Failure,
                "there is no certificate yet",
                "`gateway serve --tls` makes one (or set gateway.tls.enabled)",
            ));
        }
        let info = CertificateInfo::read(&self.files.cert)?;
        let next = self.next();
        let running = RunFile::of_running(&self.state_dir);
        let mut shown = described(&info);
        shown["certPath"] = json!(self.files.cert);
        shown["keyPath"] = json!(self.files.key);
        shown["expired"] = json!(info.not_after_ms < self.now_ms);
        shown["enabled"] = json!(self.settings.gateway.tls.enabled);
        // What the running gateway shows: the same within two seconds after a change.
        shown["served"] = json!(running.map(|run| run.tls_fingerprints.first().cloned()));
        if let Some(next) = &next {
            shown["next"] = described(next);
        }
        print(as_json, &shown, human)
    }

    fn rotate(&self, finish: bool, now: bool, as_json: bool) -> Result<(), Failure> {
        if !matches!(self.settings.gateway.tls.source, TlsSource::Own { .. }) {
            return Err(Failure::new(
                Exit::Usage,
                "this certificate is your own (gateway.tls.certPath), the gateway does not make it",
                "put the renewed pair in place of the old one: a running gateway takes it within two seconds",
            ));
        }
        let old = CertificateInfo::read(&self.files.cert).ok();
        let state_dir = &self.state_dir;
        if old.is_none() && !finish && make_own(state_dir, &self.names(), self.now_ms)? {
            return self.show(as_json);
        }
        if !finish {
            prepare_next(state_dir, &self.names(), self.now_ms)?;
        }
        let mut told = json!({ "inPlace": finish || now });
        if finish || now {
            let info = finish_next(state_dir, self.now_ms)?;
            told["served"] = described(&info);
            told["before"] = json!(old.map(|o| o.fingerprint));
        } else {
            told["served"] = json!(old.as_ref().map(described));
            told["next"] = json!(self.next().as_ref().map(described));
        }
        print(as_json, &told, |told| {
            let of = |key: &str| text(&told[key], "fingerprint");
            if finish || now {
                format!(
                    "in place  sha256:{}\nnext: clients that pinned another one must pin this; a running gateway shows it within two seconds",
                    of("served")
                )
            } else {
                format!(
                    "served    sha256:{}\nprepared  sha256:{}\nnext: let clients pin both (--tls-fingerprint OLD,NEW), then run `gateway tls rotate --finish`",
                    of("served"),
                    of("next")
                )
            }
        })
    }
}

fn described(info: &CertificateInfo) -> Value {
    let mut shown = json!(info);
    shown["lastDay"] = json!(info.last_day());
    shown["fingerprintColons"] = json!(info.fingerprint.colons());
    shown
}

fn text(value: &Value, key: &str) -> String {
    clean(value[key].as_str().unwrap_or("-"))
}

fn human(s: &Value) -> String {
    let names: Vec<String> = s["names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(clean)
        .collect();
    let kind = if s["selfSigned"] == true {
        "self-signed: clients pin the fingerprint"
    } else {
        "signed by an authority"
    };
    let mut lines = vec![
        format!("fingerprint  sha256:{}", text(s, "fingerprint")),
        format!("             {}", text(s, "fingerprintColons")),
        format!("subject      {} ({kind})", text(s, "subject")),
        format!("names        {}", names.join(", ")),
        format!(
            "valid until  {}{}",
            text(s, "lastDay"),
            if s["expired"] == true {
                " (EXPIRED)"
            } else {
                ""
            }
        ),
        format!("certificate  {}", text(s, "certPath")),
        format!("key          {}", text(s, "keyPath")),
    ];
    if s["enabled"] != true && !s["served"].is_string() {
        lines.push(
            "not served by the configuration: set gateway.tls.enabled, or start with --tls"
                .to_owned(),
        );
    }
    if let Some(served) = s["served"].as_str()
        && Some(served) != s["fingerprint"].as_str()
    {
        lines.push(format!(
            "the running gateway still shows sha256:{} (`gateway health` says why)",
            clean(served)
        ));
    }
    if s["next"].is_object() {
        lines.push(format!(
            "prepared     sha256:{} (`gateway tls rotate --finish` puts it in place)",
            text(&s["next"], "fingerprint")
        ));
    }
    lines.join("\n")
}
