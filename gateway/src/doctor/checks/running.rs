//! The running gateway, and who is in its way when none runs.

use std::net::{SocketAddr, TcpListener};

use crate::doctor::{Finding, Place};

/// `port`: free, or held by the gateway of this directory.
pub fn port(place: &Place) -> Vec<Finding> {
    const ID: &str = "port";
    let Ok(settings) = &place.settings else {
        return Vec::new();
    };
    if let Some(run) = &place.running {
        return vec![Finding::ok(ID, format!("{} is the gateway's", run.address))];
    }
    let address = SocketAddr::new(settings.gateway.bind.ip(), settings.gateway.port);
    vec![match TcpListener::bind(address) {
        Ok(_) => Finding::ok(ID, format!("{address} is free")),
        Err(e) => {
            let holder = holder(address.port())
                .unwrap_or_else(|| "a process that this user cannot see".to_owned());
            let what = if e.kind() == std::io::ErrorKind::AddrInUse {
                format!("{address} is in use by {holder}")
            } else {
                format!("cannot listen on {address}: {e}")
            };
            Finding::error(
                ID,
                what,
                "stop that process, or choose another port (gateway config set gateway.port N)",
            )
        }
    }]
}

/// The process that listens on a port, as far as `/proc` tells.
fn holder(port: u16) -> Option<String> {
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        inodes.extend(listening(&text, port));
    }
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        for fd in std::fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(target) = std::fs::read_link(fd.path()) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            if inodes.iter().any(|i| target == format!("socket:[{i}]")) {
                let what = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({})", what.trim()));
            }
        }
    }
    None
}

/// Inodes of the listening sockets of a port in the text of `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN.
            (words.get(1)?.ends_with(&wanted) && *words.get(3)? == "0A")
                .then(|| words.get(9)?.parse().ok())
                .flatten()
        })
        .collect()
}

/// `last-stop`: the last gateway took its run file away, as one does that stops in order.
pub fn stops(place: &Place) -> Vec<Finding> {
    const ID: &str = "last-stop";
    let Some(run) = place.run_file.clone().filter(|_| place.running.is_none()) else {
        return vec![Finding::ok(ID, "in order, or running")];
    };
    let path = place.state_dir.join("run").join("gateway.json");
    vec![
        Finding::warning(
            ID,
            format!(
                "the last gateway (process {}, {}) was ended without a chance to stop: killed, out of memory, or a power loss. What it had accepted is in the stores",
                run.pid, run.version
            ),
            "look into its log or the journal for the reason; gateway doctor --fix removes what it left",
        )
        .with_fix(move || {
            std::fs::remove_file(&path)
                .map(|()| format!("removed {}", path.display()))
                .map_err(|e| format!("{}: {e}", path.display()))
        }),
    ]
}

/// `gateway`: the running one answers, is this version, and is well.
pub fn gateway(place: &Place) -> Vec<Finding> {
    const ID: &str = "gateway";
    let Some(run) = &place.running else {
        return vec![Finding::ok(ID, "none runs (`gateway serve` starts it)")];
    };
    let mut found = Vec::new();
    match &place.answer {
        None => {}
        Some(Err(why)) => found.push(Finding::error(
            ID,
            format!(
                "process {} does not answer at {}: {why}",
                run.pid, run.address
            ),
            "look into its log; restart it if it hangs",
        )),
        Some(Ok(health)) => {
            let faults = health["plugins"]["errors"].as_array();
            for fault in faults.into_iter().flatten() {
                let said = |key: &str| fault[key].as_str().unwrap_or("?");
                // What only the configuration names has its next step in its own words.
                let own = said("error").rsplit_once(": ");
                found.push(match (said("origin"), own) {
                    ("config", Some((what, next))) => Finding::error(ID, what, next),
                    _ => Finding::error(
                        ID,
                        format!("plugin {} was not loaded: {}", said("id"), said("error")),
                        "mend the plugin and restart the gateway",
                    ),
                });
            }
            let config = health["config"]["state"].as_str().unwrap_or("active");
            if config != "active" {
                found.push(Finding::error(
                    ID,
                    format!(
                        "its configuration is {config}: {}",
                        health["config"]["error"]["message"].as_str().unwrap_or("?")
                    ),
                    "mend gateway.json5 (`gateway config validate`)",
                ));
            }
        }
    }
    if run.version != gateway::VERSION {
        found.push(Finding::warning(
            ID,
            format!("{} runs, this program is {}", run.version, gateway::VERSION),
            "restart the gateway with the new version",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            ID,
            format!("process {} answers at {}", run.pid, run.address),
        ));
    }
    found
}

/// `discovery`: what the running gateway says about mDNS.
pub fn discovery(place: &Place) -> Vec<Finding> {
    const ID: &str = "discovery";
    let Some(Ok(health)) = &place.answer else {
        return Vec::new();
    };
    vec![if health["discovery"]["state"] == "degraded" {
        Finding::warning(
            ID,
            format!(
                "the gateway cannot announce itself: {}",
                health["discovery"]["message"].as_str().unwrap_or("?")
            ),
            "see docs/discovery.md, or set discovery.mdns.mode: \"off\"",
        )
    } else {
        let on = health["discovery"].is_object();
        Finding::ok(ID, if on { "mDNS works" } else { "off" })
    }]
}

/// `tailscale`: what the running gateway says about its name in the tailnet.
pub fn tailscale(place: &Place) -> Vec<Finding> {
    const ID: &str = "tailscale";
    let Some(Ok(health)) = &place.answer else {
        return Vec::new();
    };
    let told = &health["tailscale"];
    vec![if told["state"] == "degraded" {
        Finding::warning(
            ID,
            format!(
                "the name in the tailnet is not served: {}",
                told["message"].as_str().unwrap_or("?")
            ),
            "see docs/tailscale.md, or set gateway.tailscale.mode: \"off\"",
        )
    } else {
        Finding::ok(ID, told["url"].as_str().unwrap_or("off"))
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:4965 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0\n   1: 0100007F:4965 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 777 1 0\n";
        assert_eq!(listening(table, 0x4965), [12345]);
        assert!(listening(table, 80).is_empty());
        if std::path::Path::new("/proc/net/tcp").exists() {
            let Ok(socket) = TcpListener::bind("127.0.0.1:0") else {
                panic!("no socket");
            };
            let port = socket.local_addr().map_or(0, |a| a.port());
            let who = holder(port).unwrap_or_default();
            assert!(
                who.contains(&format!("process {}", std::process::id())),
                "{who}"
            );
        }
    }
}
