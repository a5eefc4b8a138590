//! Upgrades over a change of schema: forward with everything that was accepted, never back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway_tests::process::{Gateway, gateway_bin};
use gateway_tests::ws::Ws;

use super::{
    Orphan, PATIENCE, answers, is_ready, lives, program, say, serving, successor, upgrade,
};

/// The next version, in the place of this one: one migration more for each file.
const NEXT: &str = r#"GATEWAY_TEST_SCHEMA=next exec "$REAL" "$@""#;
/// This version, started by the next one.
const THIS: &str = r#"unset GATEWAY_TEST_SCHEMA; exec "$REAL" "$@""#;

/// Schemas of the host's file and of each tenant's.
fn schemas(state: &Path) -> (i64, Vec<i64>) {
    let version = |file: &Path| -> i64 {
        let db = rusqlite::Connection::open(file).unwrap();
        db.pragma_query_value(None, "user_version", |r| r.get(0))
            .unwrap()
    };
    let tenants = std::fs::read_dir(state.join("tenants")).unwrap();
    let tenants = tenants
        .flatten()
        .map(|dir| dir.path().join("tenant.sqlite"));
    let of_tenants = tenants.filter(|f| f.exists()).map(|f| version(&f));
    (version(&state.join("host.sqlite")), of_tenants.collect())
}

/// What `gateway serve` of this version says on a state directory that it does not take.
fn refused(state: &Path) -> String {
    let output = Command::new(gateway_bin())
        .args(["serve", "--port", "0", "--state-dir"])
        .arg(state)
        .env_remove("GATEWAY_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program with one migration more takes over and changes the stores; what was accepted is there. From then on the older program is
/// refused in words, by the upgrade (and the newer one goes on) and by a start (and no file is touched).
///
/// Covers: F9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_taken_and_never_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let gateway = Gateway::start(&state, &[]);
    let before = gateway.pid();
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    say(&mut ws, "agent:main:kept", "word 0").await;
    let said = answers(&mut ws, "agent:main:kept", 1).await;
    drop(ws);

    let next = program(dir.path(), NEXT);
    let (done, told) = upgrade(&gateway, &["--binary", next.to_str().unwrap()]);
    assert!(done, "{told}");
    let newer = successor(&gateway, before);
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    assert_eq!(answers(&mut ws, "agent:main:kept", 1).await, said);
    say(&mut ws, "agent:main:kept", "word 1").await;
    let said = answers(&mut ws, "agent:main:kept", 2).await;

    let this = program(dir.path(), THIS);
    for more in [&["--check"][..], &[]] {
        let args = [&["--binary", this.to_str().unwrap()], more].concat();
        let (done, told) = upgrade(&gateway, &args);
        assert!(!done, "{told}");
        let words = |key: &str| told["error"][key].as_str().unwrap_or_default().to_owned();
        assert!(
            words("message").contains("the running gateway writes schema")
                && words("message").contains("goes on as before"),
            "{told}"
        );
        assert!(words("next").contains("restore a backup"), "{told}");
        assert_eq!(serving(&gateway.state), newer.0);
    }
    assert_eq!(answers(&mut ws, "agent:main:kept", 2).await, said);
    assert!(ws.closed.is_none(), "its connections stood");
    drop(ws);

    drop(newer);
    let schema = schemas(&state);
    let why = refused(&state);
    assert!(why.contains("was written by a newer gateway"), "{why}");
    assert!(why.contains("restore a backup"), "{why}");
    assert_eq!(schemas(&state), schema);
    let again = Gateway::start_env(&state, &[], &[("GATEWAY_TEST_SCHEMA", "next")]);
    let mut ws = Ws::connect(again.port, "/", &again.token()).await.unwrap();
    assert_eq!(answers(&mut ws, "agent:main:kept", 2).await, said);
    assert!(again.stop().success());
}

/// The newer program has changed the stores and crashes before it serves: the old one cannot read them any more, and it is the
/// newer one that is started once more, with all that was accepted.
///
/// Covers: F1, F9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_program_that_crashes_after_its_migration_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    drop(Gateway::start(&state, &[]));
    let (host, tenants) = schemas(&state);
    let gateway = Gateway::start_env(
        &state,
        &[],
        &[("GATEWAY_TEST_STATE", state.to_str().unwrap())],
    );
    let before = gateway.pid();
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    say(&mut ws, "agent:main:kept", "word 0").await;
    let said = answers(&mut ws, "agent:main:kept", 1).await;
    drop(ws);
    // At first it is prepared, opens and migrates the stores as a start of its own, and dies; when it is started once more it serves.
    let (host, tenant) = (host + 1, tenants[0] + 1);
    let crashes = format!(
        r#"export GATEWAY_TEST_SCHEMA=next
STATE="$GATEWAY_TEST_STATE"
if [ -e "$STATE/run/second" ]; then exec "$REAL" "$@"; fi
: > "$STATE/run/second"
echo '{{"handover":"prepared","version":"9","hostSchema":{host},"tenantSchema":{tenant}}}'
while ! grep -q starting "$STATE/run/upgrade.json"; do sleep 0.05; done
unset GATEWAY_HANDOVER LISTEN_FDS LISTEN_FDS_FIRST_FD
"$REAL" serve --port 0 --state-dir "$STATE" > "$STATE/run/first.log" 2>&1 < /dev/null &
CHILD=$!
until grep -q "\"pid\": *$CHILD\b" "$STATE/run/gateway.json"; do kill -0 $CHILD || exit 9; sleep 0.05; done
kill -9 $CHILD
exit 7"#
    );
    let path = program(dir.path(), &crashes);
    let (done, told) = upgrade(&gateway, &["--binary", path.to_str().unwrap()]);
    assert!(!done, "{told}");
    assert_eq!(told["error"]["gateway"]["stage"], "rolled-back", "{told}");
    let begun = Instant::now();
    while !is_ready(&gateway) {
        assert!(begun.elapsed() < PATIENCE, "nobody serves: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let now = Orphan(serving(&state));
    assert_eq!(now.0, before, "the process of the old one goes on");
    assert!(lives(now.0));
    let mut ws = Ws::connect(gateway.port, "/", &gateway.token())
        .await
        .unwrap();
    assert_eq!(answers(&mut ws, "agent:main:kept", 1).await, said);
    drop(ws);
    drop(now);
    assert_eq!(schemas(&state), (host, vec![tenant]));
    assert!(refused(&state).contains("was written by a newer gateway"));
}
