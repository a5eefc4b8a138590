//! The same protocol over TLS, beside a bare server that shows the same certificate.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::bare::order;
use crate::cases::{Ours, Size, request, side_by_side, state_dir};
use crate::process::Process;
use crate::report::{Goal, Report};
use crate::ws::{self, Conn, Endpoint};

const CONFIG: &str = r#"{ gateway: { tls: { enabled: true } }, agents: { default: "main", entries: { main: { backend: "echo" } } } }"#;
/// Handshakes of one round. The gateway lets 200 begin at one moment after a pause and 400 a second after them: what is
/// measured is the work of a handshake and not the wait for a turn.
const ROUND: usize = 160;
/// After it a whole round may begin at once.
const PAUSE: Duration = Duration::from_millis(500);

/// Whole handshakes (no session is resumed), and requests on connections that stand.
pub async fn tls(root: &Path, size: Size, report: &mut Report) -> io::Result<()> {
    let state = state_dir(root, "tls-state", CONFIG);
    let pair = state.join("gateway/tls");
    let certificate = pair.join("gateway-cert.pem");
    let server = |addr| Endpoint::tls(addr, &certificate);
    let (ours, _) = Ours::start_at(&state, &[], server).await?;
    let bare = Process::bare(&format!("bare-wss:{}", pair.display()));
    let (at, bare_at) = (server(ours.process.addr)?, server(bare.addr)?);
    let connect = ours.connect();
    let mut first = Conn::open(at.clone(), &connect).await?;
    let bare_connect = order('n', first.hello_bytes, connect.len());
    let round = async |at: &Endpoint, connect: &str| {
        tokio::time::sleep(PAUSE).await;
        ws::handshakes(at.clone(), connect, ROUND).await
    };
    let (a, b) = side_by_side(
        size,
        async || round(&at, &connect).await,
        async || round(&bare_at, &bare_connect).await,
    )
    .await?;
    report.row(
        "TLS handshakes with hello, 8 at once",
        "/s",
        a.per_s,
        Some(b.per_s),
        Goal::MinRatio(0.7),
    );
    report.row(
        "TLS handshake with hello, p50",
        "ms",
        a.p50_ms,
        Some(b.p50_ms),
        Goal::None,
    );
    let text = request("7", "health", &json!({}));
    let bytes = first.call(&text).await?.len();
    let (texts, plains) = (vec![text.clone()], vec![order('n', bytes, text.len())]);
    let batches = size.requests / 8;
    let (a, b) = side_by_side(
        size,
        async || ws::load(at.clone(), &connect, 8, &texts, batches).await,
        async || ws::load(bare_at.clone(), &bare_connect, 8, &plains, batches).await,
    )
    .await?;
    report.row(
        format!("health over TLS, 8 connections, {bytes} B"),
        "/s",
        a.per_s,
        Some(b.per_s),
        Goal::MinRatio(0.75),
    );
    report.row(
        "health over TLS, p99",
        "ms",
        a.p99_ms,
        Some(b.p99_ms),
        Goal::MaxRatio(1.7),
    );
    Ok(())
}
