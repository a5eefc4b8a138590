//! What lies in `deploy/` fits the program as it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use serde_json::{Value, json};

/// How long a test waits for something to happen; not a performance statement.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file of `deploy/`.
pub fn deploy(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("deploy")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The unit in `deploy/` is the one that `gateway service install --system` writes, for a program in `/usr/local/bin`.
#[test]
fn the_unit_is_the_one_that_the_program_writes() {
    let output = Command::new(gateway_bin())
        .args(["service", "print", "--system"])
        .env_remove("GATEWAY_STATE_DIR")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let program = gateway_bin().canonicalize().unwrap().display().to_string();
    assert_eq!(printed.matches(&program).count(), 1, "{printed}");
    let wanted = printed.replace(&program, "/usr/local/bin/gateway");
    assert_eq!(
        deploy("gateway.service").trim_end(),
        wanted.trim_end(),
        "write what `gateway service print --system` prints into deploy/gateway.service"
    );
}

/// What the container files name is there: pinned bases, verbs of the program, this version, nobody privileged.
#[test]
fn the_container_files_fit_the_program() {
    let file = deploy("Containerfile");
    let lines: Vec<&str> = file
        .lines()
        .filter(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty())
        .collect();
    let of = |word: &str| -> Vec<&str> {
        lines
            .iter()
            .filter_map(|l| l.strip_prefix(word)?.strip_prefix(' '))
            .collect()
    };
    let bases = of("FROM");
    assert_eq!(bases.len(), 2);
    for base in &bases {
        let image = base.split(' ').next().unwrap();
        let (_, tag) = image.split_once(':').expect("a base has a tag");
        assert!(
            tag.starts_with(|c: char| c.is_ascii_digit()) && tag.contains('.'),
            "{image} is not pinned to a version"
        );
    }
    let rust = format!("rust:{}", env!("CARGO_PKG_RUST_VERSION"));
    assert!(bases[0].starts_with(&rust), "{bases:?}");
    // The last user is a number and not root.
    let user = of("USER").pop().unwrap();
    let uid: u32 = user.split(':').next().unwrap().parse().unwrap();
    assert_ne!(uid, 0);
    assert!(file.contains(&format!("-o {uid} ")), "the state is its own");
    // `["gateway", "health"]` and `["serve"]` are commands.
    let words = |text: &str| -> Vec<String> {
        let list = &text[text.find('[').unwrap()..];
        serde_json::from_str(list).unwrap()
    };
    let health = words(of("HEALTHCHECK").pop().unwrap());
    assert_eq!(health[0], "gateway");
    assert_eq!(words(of("ENTRYPOINT").pop().unwrap()), ["gateway"]);
    for verb in [health[1..].to_vec(), words(of("CMD").pop().unwrap())] {
        let help = Command::new(gateway_bin())
            .args(&verb)
            .arg("--help")
            .output()
            .unwrap();
        assert!(help.status.success(), "{verb:?}");
    }
    let compose = deploy("compose.yaml");
    for wanted in [
        "read_only: true",
        "cap_drop: [ALL]",
        "no-new-privileges:true",
        "dockerfile: deploy/Containerfile",
        "./nginx/gateway.conf:",
    ] {
        assert!(compose.contains(wanted), "{wanted}");
    }
    let image = format!("image: gateway:{}", env!("CARGO_PKG_VERSION"));
    assert!(compose.contains(&image), "{image}");
    assert!(!compose.contains(":latest") && !file.contains(":latest"));
}

/// A request of this machine with a bearer; the whole answer.
pub fn get(port: u16, path: &str, token: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Name → kind of each family that the gateway shows.
fn families(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.trim().to_owned()))
        .collect()
}

/// Names of numbers in an expression, each with what stands before it.
fn named(expr: &str) -> Vec<(String, String)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expr;
    let mut at = 0;
    while let Some(start) = rest.find(word) {
        let end = rest[start..]
            .find(|c| !word(c))
            .map_or(rest.len(), |n| start + n);
        let name = &rest[start..end];
        if name.starts_with("gateway_") || name.starts_with("process_") {
            found.push((name.to_owned(), expr[..at + start].to_owned()));
        }
        at += end;
        rest = &rest[end..];
    }
    found
}

/// The board shows every number that the gateway has, none that it has not, and counters only as rates or increases.
#[test]
fn the_board_shows_the_numbers_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    // Spans are counted only where traces go somewhere.
    let config = json!({"telemetry": {"otlp": {"endpoint": "http://127.0.0.1:1"}}}).to_string();
    std::fs::write(state.join("gateway.json5"), config).unwrap();
    let gateway = Gateway::start(&state, &[]);
    let begun = Instant::now();
    let there = loop {
        let there = families(&get(gateway.port, "/metrics", &gateway.token()));
        // It is there as soon as something was committed.
        if there.contains_key("gateway_commit_age_seconds") {
            break there;
        }
        assert!(begun.elapsed() < PATIENCE, "{there:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let board: Value = serde_json::from_str(&deploy("grafana/gateway.json")).unwrap();
    let mut shown = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().unwrap().ends_with('.'));
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            let named = named(expr);
            assert!(!named.is_empty(), "{expr}");
            for (name, before) in named {
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|end| name.strip_suffix(end))
                    .find(|base| there.get(*base).is_some_and(|kind| kind == "histogram"))
                    .unwrap_or(&name);
                let kind = there
                    .get(family)
                    .unwrap_or_else(|| panic!("the gateway has no {name}: {expr}"));
                let ranged = before.ends_with("rate(") || before.ends_with("increase(");
                assert_eq!(ranged, kind != "gauge", "{name} is a {kind}: {expr}");
                shown.insert(family.to_owned());
            }
        }
    }
    let missing: Vec<&String> = there.keys().filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "not on the board: {missing:?}");
    for variable in board["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            assert!(
                named(query)
                    .iter()
                    .all(|(name, _)| there.contains_key(name)),
                "{query}"
            );
        }
    }
}
