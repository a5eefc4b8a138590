//! kill -9.

use crate::support::*;
use gateway_store::*;
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
        let reader = std::thread::spawn(move || {
            out.lines()
                .map_while(std::io::Result::ok)
                .collect::<Vec<_>>()
        });
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
    assert!(acked.epoch > 1, "no epoch was read");
    assert!(
        acked.ids.len() > rounds,
        "the child hardly did anything: {} acknowledgements",
        acked.ids.len()
    );
}

/// The platform's side of a kill: what was not acknowledged is delivered again, and some of what was. Whether the
/// process died before or after its commit, each delivery ends as one message with one run.
///
/// Covers: F16, F21.
#[test]
fn a_delivery_repeated_after_a_kill_is_one_message() {
    let seed = seed();
    let mut rng = Rng(seed);
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("state");
    prepare(&dir);
    let (mut accepted, mut known) = (0, 0);
    for round in 0..if long() { 60 } else { 6 } {
        let mut child = child(&dir, &[], &[]);
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            out.lines()
                .map_while(std::io::Result::ok)
                .collect::<Vec<_>>()
        });
        std::thread::sleep(Duration::from_millis(40 + rng.below(200)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut acked = Acked::default();
        for line in reader.join().unwrap() {
            acked.line(&line);
        }
        if acked.epoch == 0 {
            // Killed before it began.
            continue;
        }
        let opened = Opened::at(&dir, SyncMode::Full);
        for slug in TENANTS {
            let db = opened.tenant(slug, StoreExec::Inline, SyncMode::Full);
            for producer in 0..3 {
                let prefix = format!("{}-{producer}-", acked.epoch);
                let done = acked
                    .ids
                    .iter()
                    .filter(|(t, id)| t == slug && id.starts_with(&prefix))
                    .count();
                // The last acknowledged one and the one that was under way.
                for i in done.saturating_sub(1)..=done {
                    let id = format!("{prefix}{i}");
                    let again = id.clone();
                    match db.write(move |w| accept(w, &again)).wait() {
                        Ok(()) => {
                            accepted += 1;
                            assert_eq!(
                                i, done,
                                "round {round}, seed {seed}: {id} was acknowledged and lost"
                            );
                        }
                        Err(e) => {
                            known += 1;
                            assert_eq!(
                                e,
                                StoreError::Conflict("accepted twice"),
                                "round {round}, seed {seed}"
                            );
                        }
                    }
                    assert!(db.read_now(|r| r.get_message(&id)).unwrap().is_some());
                }
            }
        }
        drop(opened);
        // One message, one run, one event per delivery.
        verify(&dir, &acked).unwrap_or_else(|e| panic!("round {round}, seed {seed}: {e}"));
    }
    println!("{accepted} deliveries were new, {known} known");
    assert!(known > 0);
}
