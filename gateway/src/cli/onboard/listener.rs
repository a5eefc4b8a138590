//! Who may connect, and whether what is said crosses the network in clear.

use std::net::TcpListener;

use gateway_config::{Bind, Settings};
use serde_json::json;

use super::progress::Step;
use super::{Args, Setup, ask, set};
use crate::cli::output::Failure;
use crate::run_file::RunFile;

fn given(args: &Args) -> bool {
    args.bind.is_some() || args.port.is_some() || args.tls || args.no_tls
}

fn is_loopback(word: &str) -> bool {
    match word {
        "loopback" => true,
        word => word
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
    }
}

/// The flags that are needed where nobody can be asked: whoever opens the gateway to the network says whether in clear.
pub fn missing(args: &Args, settings: Option<&Settings>) -> Vec<&'static str> {
    let opens = args.bind.as_deref().is_some_and(|word| !is_loopback(word));
    let tls = settings.is_some_and(|s| s.gateway.tls.enabled);
    match opens && !args.tls && !args.no_tls && !tls {
        true => vec!["--tls or --no-tls (with --bind others can connect)"],
        false => Vec::new(),
    }
}

pub fn step(setup: &mut Setup<'_>) -> Result<(), Failure> {
    let given = given(&setup.args);
    let gateway = &setup.settings.gateway;
    let (bind, port, tls) = (gateway.bind, gateway.port, gateway.tls.enabled);
    let asked = setup.terminal && !given && !setup.decided(Step::Listener, given);
    let wanted_bind = match &setup.args.bind {
        Some(word) => word.clone(),
        None if asked => ask_bind(bind)?,
        None => bind.label(),
    };
    let wanted_tls = match (setup.args.tls, setup.args.no_tls) {
        (true, _) => true,
        (_, true) => false,
        _ if setup.terminal
            && !tls
            && wanted_bind != bind.label()
            && !is_loopback(&wanted_bind) =>
        {
            ask::yes(
                "Others can connect then. Speak TLS (clients pin the fingerprint of a certificate that the gateway makes)?",
                true,
            )?
        }
        _ => tls,
    };
    let mut wanted_port = setup.args.port.unwrap_or(port);
    if RunFile::of_running(&setup.state_dir).is_none() {
        while let Some(why) = taken(&wanted_bind, wanted_port) {
            if !asked {
                setup.notes.push(format!(
                    "port {wanted_port} cannot be listened on now ({why}): end what has it, or give another with --port"
                ));
                break;
            }
            ask::say(&format!("port {wanted_port} cannot be listened on ({why})"))?;
            let other = ask::line(
                "another port",
                Some(&wanted_port.wrapping_add(1).to_string()),
            )?;
            wanted_port = other.parse().unwrap_or(wanted_port);
        }
    }
    let mut edits = Vec::new();
    if wanted_bind != bind.label() {
        edits.push(set(&["gateway", "bind"], Some(json!(wanted_bind))));
    }
    if wanted_port != port {
        edits.push(set(&["gateway", "port"], Some(json!(wanted_port))));
    }
    if wanted_tls != tls {
        edits.push(set(&["gateway", "tls", "enabled"], Some(json!(wanted_tls))));
    }
    let changed = setup.write(edits)?;
    let gateway = &setup.settings.gateway;
    let scheme = if gateway.tls.enabled { "https" } else { "http" };
    let address = std::net::SocketAddr::new(gateway.bind.ip(), gateway.port);
    let told = json!({
        "step": "listener", "bind": gateway.bind.label(), "port": gateway.port, "tls": gateway.tls.enabled,
        "changed": changed, "text": format!("{scheme} on {address}"),
    });
    if asked || given {
        return setup.done(Step::Listener, told);
    }
    setup.steps.push(told);
    Ok(())
}

fn ask_bind(now: Bind) -> Result<String, Failure> {
    let other = now.label();
    let choice = ask::choice(
        "Who may connect?",
        &[
            ("loopback", "programs of this machine"),
            (
                "lan",
                "whoever reaches one of its addresses and has the token",
            ),
            ("address", "the same, at one address"),
        ],
        match now {
            Bind::Loopback => "loopback",
            Bind::Lan => "lan",
            Bind::Addr(_) => "address",
        },
    )?;
    if choice != "address" {
        return Ok(choice.to_owned());
    }
    loop {
        let default = Some(other.as_str()).filter(|word| word.parse::<std::net::IpAddr>().is_ok());
        let word = ask::line("address of this machine", default)?;
        if word.parse::<std::net::IpAddr>().is_ok() {
            return Ok(word);
        }
        ask::say("write one IP address")?;
    }
}

/// Why nobody could listen there now.
fn taken(bind: &str, port: u16) -> Option<String> {
    let ip = match bind {
        "loopback" => Bind::Loopback.ip(),
        "lan" => Bind::Lan.ip(),
        word => word.parse().ok()?,
    };
    TcpListener::bind((ip, port)).err().map(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_is_alone_on_the_machine_needs_no_tls() {
        for word in ["loopback", "127.0.0.1", "::1"] {
            assert!(is_loopback(word), "{word}");
        }
        for word in ["lan", "0.0.0.0", "192.0.2.1", "::"] {
            assert!(!is_loopback(word), "{word}");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_noticed() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        assert!(taken("loopback", port).is_some());
        drop(holder);
        assert_eq!(taken("loopback", port), None);
    }
}
