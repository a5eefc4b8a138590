//! kill -9.

use crate::support::*;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

/// A child writes for two tenants and is killed at a random moment; then the next one starts on what it left.
/// Every acknowledged message is there, whole, and no owner epoch is given out twice.
///
/// Covers: F1.
#[test]
fn no_acknowledged_message_is_lost_by_a_kill() {
    let rounds = if long() { 200 } else { 12 };
    let seed = seed();
    let mut rng = Rng(seed);
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    prepare(&dir);
    let mut acked = Acked::default();
    for round in 0..rounds {
        let vars = [("GATEWAY_STORE_CHECKPOINT", "60")];
        let mut child = child(&dir, &[], &vars);
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader =
            std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(rng.below(500)));
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            acked.line(&line);
        }
        if let Err(e) = verify(&dir, &acked) {
            panic!("round {round}, seed {seed}: {e}");
        }
    }
    println!(
        "{rounds} kills, {} acknowledged messages, none lost",
        acked.ids.len()
    );
    assert!(
        acked.ids.len() > rounds,
        "the child hardly did anything: {} acknowledgements",
        acked.ids.len()
    );
}
