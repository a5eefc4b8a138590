//! WebSockets under pressure: floods, fragments, slow readers, many of them, and the end.

use std::{io::Write, time::Duration};

use serde_json::{Value, json};

use crate::support::*;

/// Covers: R1, R2.
#[test]
fn strangers_have_few_places_and_do_not_keep_the_known_out() {
    let gw = gateway(|o| {
        o.limits = Some(gateway_server::ServerLimits {
            preauth_per_address: 8,
            ..Default::default()
        })
    });
    let mut known: Vec<_> = (0..20).map(|_| gw.connected()).collect();
    let strangers: Vec<_> = (0..30).map(|_| gw.upgrade("/", &[])).collect();
    let inside = strangers.iter().filter(|s| s.is_ok()).count();
    assert_eq!(inside, 8, "as many as one address may have");
    // those that are in go on working
    for (n, ws) in known.iter_mut().enumerate() {
        ws.call(&n.to_string(), "health", json!({}));
        assert_eq!(ws.answer(&n.to_string())["ok"], true);
    }
    drop(strangers);
    until("the places are free again", || gw.upgrade("/", &[]).is_ok());
}

/// Covers: R6.
#[test]
fn pings_that_nobody_reads_cost_nothing_and_end_the_connection() {
    let gw = plain();
    let before = rss_kib();
    let mut ws = gw.connected();
    let pings = frame(0x89, &[b'p'; 125]).repeat(1000);
    let mut sent = 0;
    ws.s.set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    for _ in 0..400 {
        if ws.s.write_all(&pings).is_err() {
            break;
        }
        sent += 1000;
    }
    assert!(
        rss_kib() < before + 8 * 1024,
        "{sent} pings grew the process by {} KiB",
        rss_kib() - before
    );
    assert!(sent < 400_000, "the flood was taken to its end");
    // few pings are answered, in order
    let mut ws = gw.connected();
    for n in 0..10 {
        ws.send(0x89, format!("n{n}").as_bytes());
    }
    let pongs: Vec<_> = std::iter::from_fn(|| ws.frame())
        .filter(|f| f.opcode == 10)
        .take(10)
        .map(|f| f.payload)
        .collect();
    assert_eq!(pongs.first().unwrap(), b"n0");
    assert_eq!(pongs.last().unwrap(), b"n9");
}

/// Covers: R5.
#[test]
fn endless_fragments_end_the_connection() {
    let gw = gateway(|o| {
        o.limits = Some(gateway_server::ServerLimits {
            message_deadline_ms: 1_000,
            ..Default::default()
        })
    });
    let mut ws = gw.connected();
    ws.send(0x01, b"a");
    let more = frame(0x00, b"a").repeat(2_000);
    let _ = ws.s.write_all(&more);
    assert_eq!(ws.closed().map(|c| c.0), Some(1008));
    // and one that is never finished ends at its deadline
    let mut ws = gw.connected();
    ws.send(0x01, b"a");
    assert_eq!(ws.closed().map(|c| c.0), Some(1008));
    let mut ws = gw.connected();
    ws.s.write_all(&frame(0x81, b"half a frame")[..5]).unwrap();
    assert_eq!(ws.closed().map(|c| c.0), Some(1008));
}

/// Covers: R7.
#[test]
fn compression_is_not_negotiated() {
    let gw = plain();
    let mut ws = gw
        .upgrade(
            "/",
            &[(
                "Sec-WebSocket-Extensions",
                "permessage-deflate; client_max_window_bits",
            )],
        )
        .unwrap();
    assert!(!ws.head.to_lowercase().contains("sec-websocket-extensions"));
    ws.json();
    ws.send(0xc1, b"x");
    assert_eq!(ws.closed().map(|c| c.0), Some(1002));
}

#[test]
fn frames_that_break_the_protocol() {
    let gw = plain();
    let table: [(&str, Vec<u8>, u16); 7] = [
        ("not masked", vec![0x81, 1, b'a'], 1002),
        ("reserved opcode", frame(0x83, b""), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        ("continuation of nothing", frame(0x80, b"a"), 1002),
        ("not UTF-8", frame(0x81, &[0xff, 0xfe]), 1007),
        (
            "huge",
            vec![0x81, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            1009,
        ),
    ];
    for (name, bytes, code) in table {
        let mut ws = gw.connected();
        ws.s.write_all(&bytes).unwrap();
        assert_eq!(ws.closed().map(|c| c.0), Some(code), "{name}");
    }
    let mut ws = gw.connected();
    ws.send(0x88, &[0x03, 0xe8, b'b', b'y', b'e']);
    assert_eq!(ws.closed().map(|c| c.0), Some(1000), "a close is answered");
    assert_eq!(ws.frame(), None);
}

#[test]
fn requests_of_one_batch_are_all_answered_and_big_answers_come_in_fragments() {
    let gw = plain();
    let mut ws = gw.connected();
    let mut all = Vec::new();
    for n in 0..200 {
        all.extend(frame(
            0x81,
            json!({ "type": "req", "id": n.to_string(), "method": "health" })
                .to_string()
                .as_bytes(),
        ));
    }
    ws.s.write_all(&all).unwrap();
    let mut ids: Vec<u32> = Vec::new();
    while ids.len() < 200 {
        let got = ws.json();
        if got["type"] == "res" {
            assert_eq!(got["ok"], true, "{got}");
            ids.push(got["id"].as_str().unwrap().parse().unwrap());
        }
    }
    assert_eq!(
        ids,
        (0..200).collect::<Vec<_>>(),
        "in order, since each is answered at once"
    );
    // an answer above the fragment size
    let mut rpc = gw
        .upgrade("/rpc", &[("Authorization", &format!("Bearer {TOKEN}"))])
        .unwrap();
    rpc.text(r#"{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}"#);
    let (mut size, mut parts) = (0, 0);
    loop {
        let f = rpc.frame().unwrap();
        assert!(f.payload.len() <= 65_536);
        size += f.payload.len();
        parts += 1;
        if f.fin {
            break;
        }
    }
    assert_eq!(parts, size.div_ceil(65_536), "{size} bytes");
}

fn noise(gw: &Gateway) -> impl FnMut() + '_ {
    let mut talker = gw.connected();
    let text = "lorem ipsum ".repeat(20_000);
    let mut n = 0;
    move || {
        n += 1;
        talker.call(
            &format!("n{n}"),
            "chat.inject",
            json!({ "sessionKey": "main", "message": format!("n{n} {text}") }),
        );
        let _ = talker.answer(&format!("n{n}"));
    }
}

/// Covers: R8.
#[test]
fn numbers_of_events_have_no_gap() {
    let gw = plain();
    let mut reader = gw.connected();
    reader.call("sub", "sessions.subscribe", json!({}));
    reader.answer("sub");
    let mut writer = gw.connected();
    for n in 0..5 {
        writer.call(
            &n.to_string(),
            "chat.send",
            json!({ "sessionKey": "main", "message": "hello", "idempotencyKey": format!("k{n}") }),
        );
        assert_eq!(writer.answer(&n.to_string())["ok"], true);
    }
    let mut last: Option<u64> = None;
    let mut finals = 0;
    while finals < 5 {
        let event = reader.json();
        if event["type"] != "event" {
            continue;
        }
        let seq = event["seq"].as_u64().unwrap();
        assert!(last.is_none_or(|l| seq == l + 1), "{last:?} then {seq}");
        last = Some(seq);
        finals += u64::from(event["event"] == "chat" && event["payload"]["state"] == "final");
    }
}

/// A reader that stops reading is cut off, is told the number of the last event that it was sent, and gets a complete picture when
/// it comes again: events are not sent twice, what they told of is in the store.
/// Covers: R8, F11.
#[test]
fn a_reader_that_stops_reading_is_closed_and_memory_stays() {
    let gw = plain();
    let mut sleeper = gw.connected();
    sleeper.call("sub", "sessions.subscribe", json!({}));
    sleeper.answer("sub");
    let before = rss_kib();
    let mut shout = noise(&gw);
    for _ in 0..60 {
        shout();
    }
    let grown = rss_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB");
    let mut last = None;
    let mut end = None;
    while let Some(message) = sleeper.message() {
        if message.opcode == 8 {
            let code = u16::from_be_bytes([message.payload[0], message.payload[1]]);
            let reason = String::from_utf8_lossy(&message.payload[2..]).into_owned();
            end = Some((code, reason));
            break;
        }
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let seq = event["seq"].as_u64().unwrap();
        assert!(last.is_none_or(|l| seq == l + 1), "a number is missing");
        last = Some(seq);
    }
    let last = last.expect("some events came before the cut");
    assert_eq!(
        end,
        Some((1008, format!("slow consumer (last seq {last})")))
    );

    let mut again = gw.connected();
    again.call("list", "sessions.list", json!({}));
    let list = again.answer("list");
    let key = list["payload"]["sessions"][0]["key"].as_str().unwrap();
    assert_eq!(key, "agent:main:main", "{list}");
    let mut found = Vec::new();
    again.call(
        "all",
        "chat.history",
        json!({ "sessionKey": key, "limit": 1000 }),
    );
    for message in again.answer("all")["payload"]["messages"]
        .as_array()
        .unwrap()
    {
        let text = message["content"][0]["text"].as_str().unwrap();
        found.push(text.split(' ').next().unwrap().to_owned());
    }
    let told: Vec<String> = (1..=60).map(|n| format!("n{n}")).collect();
    assert_eq!(found, told, "each message is there once, in order");
}

/// Covers: F20.
#[test]
fn ticks_and_pings_come_and_a_dead_peer_is_closed() {
    let gw = gateway(|o| {
        o.limits = Some(gateway_server::ServerLimits {
            ping_interval_ms: 700,
            pong_timeout_ms: 1_500,
            ..Default::default()
        })
    });
    let mut ws = gw.connected();
    let (mut ticks, mut pings) = (0, 0);
    let end = loop {
        let Some(f) = ws.frame() else { break None };
        match f.opcode {
            9 => {
                pings += 1;
                if pings < 4 {
                    ws.send(0x8a, &f.payload);
                }
            }
            8 => break Some(u16::from_be_bytes([f.payload[0], f.payload[1]])),
            _ => {
                let event: Value = serde_json::from_slice(&f.payload).unwrap();
                ticks += u32::from(event["event"] == "tick" && event["seq"].is_u64());
            }
        }
    };
    assert!(
        ticks >= 3 && pings >= 4 && end == Some(1008),
        "{ticks} ticks, {pings} pings, {end:?}"
    );
}

#[test]
fn stopping_tells_everyone_and_closes_with_1012() {
    let gw = plain();
    let mut ws = gw.connected();
    let addr = gw.addr;
    let watcher = std::thread::spawn(move || {
        let mut told = false;
        loop {
            let message = ws.message().expect("a close frame");
            if message.opcode == 8 {
                return (
                    told,
                    u16::from_be_bytes([message.payload[0], message.payload[1]]),
                );
            }
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            told |= event["event"] == "shutdown";
        }
    });
    gw.stop();
    assert_eq!(watcher.join().unwrap(), (true, 1012));
    assert!(
        std::net::TcpStream::connect(addr).is_err(),
        "nobody listens any more"
    );
}
