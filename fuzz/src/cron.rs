//! Schedules of jobs, as a client writes them.

use gateway_core::cron::schedule::{Schedule, parse_at, parse_duration, parse_zone, rfc3339};

/// 2024-02-28T23:59:30Z, before a leap day, and 2026-10-25T00:30:00Z, before clocks of Europe are set back; Unix ms.
const FROM: [i64; 3] = [0, 1_709_164_770_000, 1_792_888_200_000];
/// A day, in ms.
const DAY_MS: i64 = 86_400_000;

/// `line 1: JSON of a schedule, or a cron expression; line 2: a time zone`. What is accepted has occurrences that only go
/// forward, always the same ones, and counting those of a day finds just them.
pub fn cron(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (first, zone) = text.split_once('\n').unwrap_or((text, ""));
    times(first, zone);
    let wanted = serde_json::from_str(first).or_else(|_| {
        serde_json::from_value(serde_json::json!({ "kind": "cron", "expr": first, "tz": zone }))
    });
    let Ok(wanted) = wanted else { return };
    let schedule = match Schedule::parse(&wanted, "job") {
        Ok(schedule) => schedule,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for from in FROM {
        let mut last = from;
        for _ in 0..4 {
            let Some(next) = schedule.next_ms(last) else {
                break;
            };
            assert!(next > last, "{next} comes after {last}");
            assert_eq!(schedule.next_ms(next - 1), Some(next), "{last}");
            last = next;
            if !schedule.repeats() {
                assert_eq!(schedule.next_ms(last), None);
            }
        }
        let Some(next) = schedule.next_ms(from) else {
            continue;
        };
        let until = next.saturating_add(DAY_MS);
        let due = schedule.due(next, until, 3);
        assert!((1..=3).contains(&due.last.len()));
        assert!(due.last.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(due.last.iter().all(|at| (next..=until).contains(at)));
        let end = due.last.last().copied().unwrap_or(next);
        assert!(schedule.next_ms(end).is_none_or(|after| after > until));
    }
}

/// Points and lengths of time.
fn times(text: &str, zone: &str) {
    let now = FROM[2];
    if let Ok(length) = parse_duration(text) {
        assert!(length >= 0);
    }
    if let Ok(zone) = parse_zone(zone)
        && let Ok(at) = parse_at(text, Some(now), zone)
    {
        assert!(at >= 0);
        assert_eq!(parse_at(&rfc3339(at), None, zone).ok(), Some(at));
    }
}
