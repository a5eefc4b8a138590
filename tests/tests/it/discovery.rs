//! Being found in a network: two namespaces joined by a cable, a gateway in one, Avahi and our own search in the other.
//!
//! It needs root (or the right to make namespaces) and Avahi; where one is missing the tests say so and are left out.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::gateway_bin;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn tool(name: &str, program: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(name) {
        return Some(path.into());
    }
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}

fn ip(args: &[&str]) -> bool {
    let done = Command::new("ip").args(args).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// Namespaces of this test, removed at its end.
pub(crate) struct Nets(Vec<String>);

impl Nets {
    /// `None`, and said loudly, where they cannot be made.
    pub(crate) fn new(count: usize, of: &str) -> Option<Self> {
        let names: Vec<String> = (0..count)
            .map(|i| format!("gw-{of}-{}-{i}", std::process::id()))
            .collect();
        let nets = Self(names);
        for name in &nets.0 {
            if !ip(&["netns", "add", name]) || !ip(&["-n", name, "link", "set", "lo", "up"]) {
                eprintln!("!!! LEFT OUT: network namespaces cannot be made here (root, iproute2)");
                return None;
            }
        }
        Some(nets)
    }

    /// Joins both by a cable: 192.0.2.1 and 192.0.2.2.
    pub(crate) fn cable(&self) {
        let (a, b) = (&self.0[0], &self.0[1]);
        assert!(ip(&[
            "-n", a, "link", "add", "gwv0", "type", "veth", "peer", "name", "gwv1", "netns", b
        ]));
        for (net, dev, address) in [(a, "gwv0", "192.0.2.1/24"), (b, "gwv1", "192.0.2.2/24")] {
            assert!(ip(&["-n", net, "addr", "add", address, "dev", dev]));
            assert!(ip(&["-n", net, "link", "set", dev, "up"]));
            assert!(ip(&["-n", net, "route", "add", "224.0.0.0/4", "dev", dev]));
        }
    }

    pub(crate) fn name(&self, net: usize) -> &str {
        &self.0[net]
    }

    pub(crate) fn command(&self, net: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0[net]])
            .arg(program)
            .stdin(Stdio::null());
        for name in ["GATEWAY_TOKEN", "GATEWAY_URL", "GATEWAY_STATE_DIR"] {
            command.env_remove(name);
        }
        command
    }

    /// A gateway in a namespace, running when this returns.
    pub(crate) fn gateway(&self, net: usize, state: &Path, extra: &[&str]) -> Running {
        let log = state.with_extension("log");
        let sink = std::fs::File::create(&log).unwrap();
        let child = self
            .command(net, &gateway_bin())
            .args(["serve", "--port", "18789", "--state-dir"])
            .arg(state)
            .args(extra)
            .stdout(sink.try_clone().unwrap())
            .stderr(sink)
            .spawn()
            .unwrap();
        let running = Running { child, log };
        until("the run file", || state.join("run/gateway.json").exists());
        running
    }

    pub(crate) fn ask(&self, net: usize, state: &Path, args: &[&str]) -> Value {
        let output = self
            .command(net, &gateway_bin())
            .args(args)
            .arg("--json")
            .arg("--state-dir")
            .arg(state)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        for name in &self.0 {
            ip(&["netns", "del", name]);
        }
    }
}

/// A child process that ends with this.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `ip netns exec` becomes the program itself: this is its id.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut fits: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fits() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Avahi with a message bus of its own, in namespace `net`.
fn avahi(
    nets: &Nets,
    net: usize,
    dir: &Path,
    daemon: &Path,
    bus: &Path,
) -> (Running, Running, String) {
    let address = format!("unix:path={}", dir.join("bus").display());
    let config = dir.join("bus.conf");
    std::fs::write(
        &config,
        format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"#
        ),
    )
    .unwrap();
    let start = |command: &mut Command, log: &str| {
        let log = dir.join(log);
        let sink = std::fs::File::create(&log).unwrap();
        let child = command
            .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
            .stdout(sink.try_clone().unwrap())
            .stderr(sink)
            .spawn()
            .unwrap();
        Running { child, log }
    };
    let bus = start(
        nets.command(net, bus)
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"]),
        "bus.log",
    );
    until("the message bus", || dir.join("bus").exists());
    // Its files in /run are its own: a mount namespace keeps them from the machine's.
    let script = format!(
        "mount -t tmpfs none /run && exec {} --no-drop-root --no-chroot --no-rlimits -f {}",
        daemon.display(),
        dir.join("avahi.conf").display()
    );
    std::fs::write(
        dir.join("avahi.conf"),
        "[server]\nhost-name=seeker\nuse-ipv6=no\nenable-dbus=yes\n[publish]\ndisable-publishing=yes\n",
    )
    .unwrap();
    let daemon = start(
        nets.command(net, Path::new("unshare"))
            .args(["-m", "sh", "-c", &script]),
        "avahi.log",
    );
    (bus, daemon, address)
}

/// Covers: N13, N14.
#[test]
fn avahi_and_our_own_search_find_the_gateway_and_trust_nobody() {
    let (Some(daemon), Some(browse), Some(bus)) = (
        tool("GATEWAY_AVAHI_DAEMON", "avahi-daemon"),
        tool("GATEWAY_AVAHI_BROWSE", "avahi-browse"),
        tool("GATEWAY_DBUS_DAEMON", "dbus-daemon"),
    ) else {
        eprintln!("!!! LEFT OUT: Avahi is not here (`cargo xtask tools` gets it)");
        return;
    };
    let Some(nets) = Nets::new(2, "find") else {
        return;
    };
    nets.cable();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = nets.gateway(0, &state, &["--bind", "lan", "--tls"]);
    let shown = nets.ask(0, &state, &["tls", "show"]);
    let pin = shown["fingerprint"].as_str().unwrap().to_owned();
    let (_bus, _daemon, address) = avahi(&nets, 1, dir.path(), &daemon, &bus);

    let mut found = String::new();
    until("avahi-browse finds it", || {
        let output = nets
            .command(1, &browse)
            .args([
                "--resolve",
                "--parsable",
                "--terminate",
                "_openclaw-gw._tcp",
            ])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
            .output()
            .unwrap();
        found = String::from_utf8_lossy(&output.stdout).into_owned();
        found.lines().any(|line| line.starts_with('='))
    });
    let line = found.lines().find(|line| line.starts_with('=')).unwrap();
    for part in [
        ";192.0.2.1;18789;",
        "\"role=gateway\"",
        "\"transport=gateway\"",
        "\"gatewayPort=18789\"",
        "\"gatewayTls=1\"",
        "\"gatewayDirectReachable=1\"",
        &format!("\"gatewayTlsSha256={pin}\""),
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for leak in [
        "cliPath",
        dir.path().to_str().unwrap(),
        &format!("={}", machine.trim()),
    ] {
        assert!(!line.contains(leak), "{leak} in {line}");
    }

    let elsewhere = dir.path().join("elsewhere");
    let mut seen = Value::Null;
    until("our own search finds it", || {
        seen = nets.ask(1, &elsewhere, &["discover", "--wait", "1000"]);
        seen["gateways"].as_array().is_some_and(|g| !g.is_empty())
    });
    let one = &seen["gateways"][0];
    assert_eq!(one["url"], "wss://192.0.2.1:18789", "{seen}");
    assert_eq!(one["claimedFingerprint"], json!(pin));
    let health = nets.ask(0, &state, &["health"]);
    assert_eq!(health["discovery"]["state"], "ok", "{health}");
    assert_eq!(health["discovery"]["mode"], "minimal");

    // What is found is a hint: no command goes there by itself, and a pin is not overridden by what is claimed.
    let token = std::fs::read_to_string(state.join("secrets/main/gateway-token")).unwrap();
    let other = "5".repeat(64);
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::write(
        elsewhere.join("gateway.json5"),
        format!("{{ gateway: {{ mode: \"remote\", remote: {{ url: \"wss://192.0.2.1:18789\", tlsFingerprint: \"{other}\" }} }} }}"),
    )
    .unwrap();
    // The right pin leads to the gateway, where a device of another machine waits for an operator.
    let health = |pin: &[&str]| {
        nets.command(1, &gateway_bin())
            .args(["health", "--token", token.trim(), "--state-dir"])
            .arg(&elsewhere)
            .args(pin)
            .output()
            .unwrap()
    };
    let refused = health(&[]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && text.contains("gateway tls fingerprint mismatch"),
        "{text}"
    );
    let good = health(&["--tls-fingerprint", &pin]);
    let text = String::from_utf8_lossy(&good.stderr).into_owned();
    assert!(
        !good.status.success() && text.contains("gateway devices approve"),
        "{text}"
    );

    // The same as a zone for a name server, of the gateway as it runs.
    let zone = nets.ask(0, &state, &["dns", "zone", "--domain", "gw.example.org"]);
    let text = zone["zone"].as_str().unwrap();
    for part in [
        "_openclaw-gw._tcp IN PTR gateway-",
        " IN SRV 0 0 18789 gateway-",
        "IN A 192.0.2.1\n",
        &format!("\"gatewayTlsSha256={pin}\""),
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }

    // Who stops says goodbye: it is not found any more.
    drop(gateway);
    until("it is forgotten", || {
        let seen = nets.ask(
            1,
            &dir.path().join("nobody"),
            &["discover", "--wait", "700"],
        );
        seen["gateways"].as_array().is_some_and(Vec::is_empty)
    });
}

/// No network at all, and the port taken by another program: one field says so, everything else works, and it is not tried
/// again at once.
///
/// Covers: N15, F24.
#[test]
fn where_nothing_can_be_announced_everything_else_works() {
    let Some(nets) = Nets::new(2, "none") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // Only the loopback device.
    let alone = dir.path().join("alone");
    let first = nets.gateway(0, &alone, &["--bind", "lan"]);
    // An address, and somebody else sits on the port and shares it with nobody.
    let net = &nets.0[1];
    assert!(ip(&[
        "-n", net, "link", "add", "gwd0", "type", "veth", "peer", "name", "gwd1"
    ]));
    assert!(ip(&[
        "-n",
        net,
        "addr",
        "add",
        "192.0.2.9/24",
        "dev",
        "gwd0"
    ]));
    for end in ["gwd0", "gwd1"] {
        assert!(ip(&["-n", net, "link", "set", end, "up"]));
    }
    let python = tool("GATEWAY_PYTHON", "python3");
    let taken = python.map(|python| {
        let log = dir.path().join("taken.log");
        let sink = std::fs::File::create(&log).unwrap();
        let script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('0.0.0.0', 5353))\nprint('bound', flush=True)\ntime.sleep(600)";
        let child = nets
            .command(1, &python)
            .args(["-c", script])
            .stdout(sink)
            .spawn()
            .unwrap();
        let running = Running { child, log };
        until("the port is taken", || running.log().contains("bound"));
        running
    });
    let busy = dir.path().join("busy");
    let second = nets.gateway(1, &busy, &["--bind", "lan"]);
    for (net, state, running) in [(0, &alone, &first), (1, &busy, &second)] {
        if net == 1 && taken.is_none() {
            eprintln!("!!! LEFT OUT: the taken port (no python3)");
            continue;
        }
        until("health says so", || {
            let health = nets.ask(net, state, &["health"]);
            assert_eq!(health["ok"], true);
            health["discovery"]["state"] == "degraded"
        });
        let health = nets.ask(net, state, &["health"]);
        let why = health["discovery"]["message"].as_str().unwrap();
        assert!(!why.is_empty());
        nets.ask(net, state, &["status"]);
        // At most once a minute: within these seconds, once.
        let tries = running.log().matches("discovery: not announced").count();
        assert!(tries <= 1, "{}", running.log());
    }
}

/// The zone is read by the reader of a name server that is not ours, and says what mDNS says.
#[test]
fn the_zone_is_one_that_a_name_server_loads() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let Some(checkzone) = tool("GATEWAY_CHECKZONE", "named-checkzone") else {
        eprintln!("!!! LEFT OUT: there is no named-checkzone");
        return;
    };
    let domain = "gw.example.org";
    let config = format!(
        "{{ gateway: {{ bind: \"lan\", tls: {{ enabled: true }} }}, discovery: {{ mdns: {{ mode: \"full\" }}, wideArea: {{ domain: {domain:?} }} }} }}"
    );
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("gateway.json5"), config).unwrap();
    let gateway = gateway_tests::process::Gateway::start(&state, &[]);
    let written = state.join("dns").join(format!("{domain}.db"));
    let started = Instant::now();
    while !written.exists() {
        assert!(started.elapsed() < PATIENCE, "no zone was written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let printed = state.with_extension("zone");
    let (ok, out, err) = gateway.cli(&[
        "dns",
        "zone",
        "--domain",
        domain,
        "--address",
        "2001:db8::7",
    ]);
    assert!(ok, "{out}{err}");
    std::fs::write(&printed, out).unwrap();
    for zone in [&written, &printed] {
        let output = Command::new(&checkzone)
            .args([
                "-D", "-q", "-i", "full", "-k", "fail", "-n", "fail", "-r", "fail", domain,
            ])
            .arg(zone)
            .output()
            .unwrap();
        let dump = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{dump}{said}");
        // As the server understood it: one record a line, names in full.
        let lines: Vec<String> = dump
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let line = |of: &str| {
            let found = lines.iter().find(|line| line.contains(of));
            found.unwrap_or_else(|| panic!("no {of} in {dump}"))
        };
        let service = format!("_openclaw-gw._tcp.{domain}.");
        let instance = line(&format!("{service} 60 IN PTR "))
            .rsplit(' ')
            .next()
            .unwrap();
        assert!(instance.ends_with(&format!(".{service}")), "{dump}");
        let target = line(&format!("{instance} 60 IN SRV 0 0 {} ", gateway.port))
            .rsplit(' ')
            .next()
            .unwrap();
        let address = line(&format!("{target} 60 IN A"));
        let given = address.ends_with(" AAAA 2001:db8::7");
        assert_eq!(given, zone == &printed, "{address}");
        let text = line(&format!("{instance} 60 IN TXT "));
        for word in [
            "\"role=gateway\"",
            "\"gatewayTls=1\"",
            "\"gatewayTlsSha256=",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    gateway.stop();
}
