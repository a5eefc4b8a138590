//! The conformance suite of `Intake` on its local form, over a restart.

use std::sync::Arc;

use gateway_core::Host;
use gateway_core::intake::{LocalIntake, conformance};
use parking_lot::Mutex;

use super::support::*;

/// Covers: F22.
#[tokio::test(start_paused = true)]
async fn the_local_intake_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let script: Arc<Script> = Arc::default();
    let host = start(dir.path(), &script, 1).await;
    let first = LocalIntake::new(host.main_tenant().unwrap().clone());
    let key = gateway_protocol::SessionKey::parse("agent:main:intake").unwrap();
    let alive: Mutex<Option<Arc<Host>>> = Mutex::new(None);
    conformance(first, &key, |first: LocalIntake| async {
        drop(first);
        host.shutdown(std::time::Duration::from_secs(1)).await;
        drop(host);
        let host = start(dir.path(), &script, 2).await;
        let later = LocalIntake::new(host.main_tenant().unwrap().clone());
        *alive.lock() = Some(host);
        later
    })
    .await
    .unwrap();
    let host = alive.lock().take().unwrap();
    settle(&host.main_tenant().unwrap()).await;
    assert_eq!(script.begun.lock()["w1"], 1);
    assert_eq!(script.begun.lock()["w2"], 1);
}
