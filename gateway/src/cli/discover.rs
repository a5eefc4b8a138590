//! `gateway discover`, `gateway dns zone`

use std::net::IpAddr;
use std::time::Duration;

use clap::Subcommand;
use gateway_client::CertPin;
use gateway_config::{Bind, MdnsMode};
use gateway_server::discover::{Advertisement, zone};
use serde_json::{Value, json};

use super::output::{Exit, Failure, print, table, text};
use super::{Global, target};
use crate::run_file::RunFile;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to listen, in milliseconds; at most --timeout.
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    wait: u64,
}

pub async fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let window = Duration::from_millis(args.wait).min(target::timeout(global));
    let found = gateway_client::discover(window).await.map_err(|why| {
        Failure::new(
            Exit::Failure,
            format!("this machine cannot search the local network: {why}"),
            "name the gateway yourself: --url wss://HOST:PORT --tls-fingerprint SHA256",
        )
    })?;
    print(global.json, &json!({ "gateways": found }), human)
}

fn human(found: &Value) -> String {
    let rows: Vec<Vec<String>> = found["gateways"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|g| {
            let pin = text(g, "claimedFingerprint");
            vec![text(g, "name"), text(g, "url"), pin]
        })
        .collect();
    let shown = table(
        &["NAME", "ADDRESS", "CLAIMED SHA256"],
        &rows,
        "no gateway announces itself in this network",
    );
    if rows.is_empty() {
        return shown;
    }
    format!(
        "{shown}\nAnybody can announce anything: compare the fingerprint with `gateway tls show` on that machine before you pin it.\nnext: gateway health --url ADDRESS --tls-fingerprint SHA256 --token TOKEN"
    )
}

#[derive(Debug, Subcommand)]
pub enum DnsCommand {
    /// Print the zone file with which a DNS server tells of this gateway (wide-area DNS-SD).
    Zone {
        /// Domain of the zone (default: discovery.wideArea.domain).
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
        /// Address under which the gateway is reached (default: those of this machine's interfaces); may be repeated.
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
    },
}

pub async fn dns(global: &Global, command: DnsCommand) -> Result<(), Failure> {
    let DnsCommand::Zone { domain, address } = command;
    let state_dir = std::path::absolute(global.state_dir()?)?;
    let settings = global.settings()?;
    let Some(domain) = domain.or(settings.discovery.wide_area_domain) else {
        return Err(Failure::new(
            Exit::Usage,
            "no domain is named",
            "add --domain gw.example.org, or set discovery.wideArea.domain",
        ));
    };
    let Some(running) = RunFile::of_running(&state_dir).filter(|_| global.url.is_none()) else {
        return Err(Failure::new(
            Exit::Connect,
            "no gateway runs on this state directory; the zone carries its name and port",
            "start it with `gateway serve`",
        ));
    };
    // As it runs, flags included.
    let mut gateway = settings.gateway;
    gateway.bind = Bind::Addr(running.address.ip());
    gateway.tls.enabled = running.url.starts_with("https:");
    let pin = running
        .tls_fingerprints
        .first()
        .and_then(|pin| CertPin::parse(pin));
    // Whoever asks for the zone wants to be found: `off` is for what the gateway does by itself.
    let mode = match settings.discovery.mode {
        MdnsMode::Full => MdnsMode::Full,
        MdnsMode::Minimal | MdnsMode::Off => MdnsMode::Minimal,
    };
    let identity = target::call(global, "gateway.identity.get", json!({})).await?;
    let id = identity["deviceId"].as_str().unwrap_or_default();
    let Some(what) = Advertisement::of(&gateway, mode, id, running.port, pin) else {
        return Err(Failure::new(
            Exit::Usage,
            "the gateway listens on loopback only: nobody elsewhere can reach it",
            "set gateway.bind to lan or an address, or start it with --bind",
        ));
    };
    let addresses = if address.is_empty() {
        what.addresses()
    } else {
        address
    };
    let zone = zone::text(&what, &domain, &addresses, zone::serial());
    let shown = json!({ "domain": domain, "addresses": addresses, "zone": zone, "path": zone::path(&state_dir, &domain) });
    print(global.json, &shown, |_| zone.trim_end().to_owned())
}
