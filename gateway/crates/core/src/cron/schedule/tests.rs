#![allow(clippy::unwrap_used, clippy::expect_used)]

use croner::parser::{CronParser, Seconds};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn cron(expr: &str, tz: &str) -> Schedule {
    let schedule = CronSchedule::Cron {
        expr: expr.to_owned(),
        tz: Some(tz.to_owned()),
        stagger_ms: Some(0),
    };
    Schedule::parse(&schedule, "job").unwrap_or_else(|e| panic!("{expr}: {e}"))
}

fn refused(expr: &str) -> String {
    let schedule = CronSchedule::Cron {
        expr: expr.to_owned(),
        tz: None,
        stagger_ms: None,
    };
    Schedule::parse(&schedule, "job").unwrap_err().to_string()
}

fn ms(text: &str) -> i64 {
    parse_at(text, None, Tz::UTC).unwrap()
}

/// The next times as `MM-DD HH:MM:SS` on the wall clock of the zone, with the offset in hours.
fn next(expr: &str, tz: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = cron(expr, tz);
    let zone = parse_zone(tz).unwrap();
    let mut at = ms(after);
    (0..count)
        .map(|_| {
            at = schedule.next_ms(at).unwrap();
            DateTime::<Utc>::from_timestamp_millis(at)
                .unwrap()
                .with_timezone(&zone)
                .format("%m-%d %H:%M:%S %z")
                .to_string()
        })
        .collect()
}

#[test]
fn five_and_six_fields_and_nicknames() {
    let after = "2026-11-25T10:20:30Z"; // a Wednesday
    for (expr, expect) in [
        ("0 3 * * *", "11-26 03:00:00 +0000"),
        ("*/15 * * * *", "11-25 10:30:00 +0000"),
        ("*/20 * * * * *", "11-25 10:20:40 +0000"),
        ("10-40/15 * * * *", "11-25 10:25:00 +0000"),
        ("0 9 * * 1", "11-30 09:00:00 +0000"),
        ("0 9 * * mon-fri", "11-26 09:00:00 +0000"),
        ("0 9 * * 0", "11-29 09:00:00 +0000"),
        ("0 9 * * 7", "11-29 09:00:00 +0000"),
        ("0 9 * * 6-7", "11-28 09:00:00 +0000"),
        ("0 9 * * SAT-SUN", "11-28 09:00:00 +0000"),
        ("0 0 29 2 *", "02-29 00:00:00 +0000"),
        ("0 0 1 jan,Jul *", "01-01 00:00:00 +0000"),
        ("0 12 ? * *", "11-25 12:00:00 +0000"),
        ("@hourly", "11-25 11:00:00 +0000"),
        ("@Daily", "11-26 00:00:00 +0000"),
        ("@weekly", "11-29 00:00:00 +0000"),
        ("@monthly", "12-01 00:00:00 +0000"),
        ("@yearly", "01-01 00:00:00 +0000"),
    ] {
        assert_eq!(next(expr, "UTC", after, 1), [expect], "{expr}");
    }
}

/// Either day field where both are restricted, both where one has a star: crontab(5).
#[test]
fn day_fields_join_as_crontab_says() {
    let after = "2026-11-25T00:00:00Z";
    assert_eq!(
        next("0 0 13 * 5", "UTC", after, 4),
        [
            "11-27 00:00:00 +0000",
            "12-04 00:00:00 +0000",
            "12-11 00:00:00 +0000",
            "12-13 00:00:00 +0000"
        ]
    );
    // A star with a step is still a star: the first of the odd days that is a Monday.
    assert_eq!(
        next("0 0 */2 * 1", "UTC", after, 2),
        ["12-07 00:00:00 +0000", "12-21 00:00:00 +0000"]
    );
}

#[test]
fn wrong_expressions_say_which_field() {
    for (expr, words) in [
        ("", "5 fields"),
        ("* * * *", "this one has 4"),
        ("0 0 0 1 1 * 2027", "this one has 7"),
        ("60 * * * *", "minute \"60\": must be from 0 to 59"),
        ("* 24 * * *", "hour \"24\""),
        ("* * 0 * *", "day of month \"0\""),
        ("* * * 13 *", "month \"13\""),
        ("* * * * 8", "day of week \"8\": must be from 0 to 7"),
        ("* * * * mond", "day of week \"mond\""),
        ("5/10 * * * *", "a step belongs to * or to a range"),
        ("*/0 * * * *", "a step is a number from 1 to 59"),
        ("50-10 * * * *", "ends before it begins"),
        ("+5 * * * *", "minute \"+5\""),
        ("1,,2 * * * *", "minute \"\""),
        ("0 0 L * *", "L, W and # are not supported"),
        ("0 0 15W * *", "L, W and # are not supported"),
        ("0 0 * * 5#2", "L, W and # are not supported"),
        ("0 0 30 2 *", "never comes due"),
        ("? * * * *", "minute \"?\""),
        ("@reboot", "boot script"),
        ("@often", "@often is not known"),
    ] {
        let text = refused(expr);
        assert!(text.contains(words), "{expr}: {text}");
    }
    let zone = CronSchedule::Cron {
        expr: "0 3 * * *".into(),
        tz: Some("Mars/Olympus".into()),
        stagger_ms: None,
    };
    let text = Schedule::parse(&zone, "job").unwrap_err().to_string();
    assert!(
        text.contains("Mars/Olympus") && text.contains("Europe/Berlin"),
        "{text}"
    );
    for kind in [
        CronSchedule::OnExit {
            command: "true".into(),
            cwd: None,
        },
        CronSchedule::Stream {
            command: vec!["true".into()],
        },
    ] {
        let text = Schedule::parse(&kind, "job").unwrap_err().to_string();
        assert!(text.contains("not supported"), "{text}");
    }
}

/// A skipped time runs once after the gap, a time that comes twice runs at the first; what follows the clock does both.
/// Covers: F10.
#[test]
fn days_with_a_changed_clock() {
    // 2026-03-29 02:00 → 03:00 and 2026-10-25 03:00 → 02:00 in Berlin.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        [
            "03-28 02:30:00 +0100",
            "03-29 03:00:00 +0200",
            "03-30 02:30:00 +0200"
        ]
    );
    assert_eq!(
        next("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
        ["03-29 03:00:00 +0200", "03-30 02:00:00 +0200"],
        "the skipped time and the one at the end of the gap are one moment"
    );
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]
    );
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-03-28T23:45:00Z", 3),
        [
            "03-29 01:30:00 +0100",
            "03-29 03:30:00 +0200",
            "03-29 04:30:00 +0200"
        ]
    );
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 4),
        [
            "10-25 02:30:00 +0200",
            "10-25 02:30:00 +0100",
            "10-25 03:30:00 +0100",
            "10-25 04:30:00 +0100"
        ]
    );
    // Half an hour only, and a whole day that did not exist.
    assert_eq!(
        next(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            2
        ),
        ["10-04 02:30:00 +1100", "10-05 02:15:00 +1100"]
    );
    assert_eq!(
        next("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1),
        ["12-31 00:00:00 +1400"]
    );
    assert_eq!(
        next("0 * 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1),
        ["12-30 00:00:00 +1400"],
        "the one of 2012"
    );
}

#[test]
fn every_and_at() {
    let every = |every_ms, anchor_ms| {
        Schedule::parse(
            &CronSchedule::Every {
                every_ms,
                anchor_ms: Some(anchor_ms),
            },
            "job",
        )
    };
    let schedule = every(60_000, 1_000).unwrap();
    assert_eq!(schedule.next_ms(0), Some(1_000));
    assert_eq!(schedule.next_ms(1_000), Some(61_000));
    assert_eq!(schedule.next_ms(60_999), Some(61_000));
    assert_eq!(schedule.next_ms(61_000), Some(121_000));
    assert!(every(999, 0).unwrap_err().to_string().contains("everyMs"));
    assert!(every(9_000_000_000_000_000, 0).is_err());

    let now = ms("2026-11-25T10:00:00Z");
    for (text, expect) in [
        ("2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z"),
        ("2026-12-24T18:00:00.5Z", "2026-12-24T18:00:00.500Z"),
        ("2026-12-24 18:00", "2026-12-24T18:00:00Z"),
        ("20m", "2026-11-25T10:20:00Z"),
        ("1h30m", "2026-11-25T11:30:00Z"),
        ("1d", "2026-11-26T10:00:00Z"),
    ] {
        assert_eq!(
            parse_at(text, Some(now), Tz::UTC).unwrap(),
            ms(expect),
            "{text}"
        );
    }
    let berlin = parse_zone("Europe/Berlin").unwrap();
    assert_eq!(
        parse_at("2026-07-01T09:00", None, berlin).unwrap(),
        ms("2026-07-01T07:00:00Z")
    );
    for text in [
        "",
        "tomorrow",
        "20",
        "m",
        "20x",
        "2026-13-01T00:00:00Z",
        "99999999999w",
    ] {
        assert!(parse_at(text, Some(now), Tz::UTC).is_err(), "{text}");
    }
    assert!(
        parse_at("20m", None, Tz::UTC).is_err(),
        "no point to count from"
    );
    let at = Schedule::At(now);
    assert_eq!((at.next_ms(now - 1), at.next_ms(now)), (Some(now), None));
    assert_eq!(rfc3339(now), "2026-11-25T10:00:00.000Z");
}

/// Jobs at the full hour come a little later, each always at the same moment, and never twice in an hour.
#[test]
fn the_full_hour_is_spread() {
    let schedule = CronSchedule::Cron {
        expr: "0 * * * *".into(),
        tz: None,
        stagger_ms: None,
    };
    let hour = ms("2026-11-25T10:00:00Z");
    let mut seen = std::collections::BTreeSet::new();
    for job in 0..64 {
        let schedule = Schedule::parse(&schedule, &format!("job-{job}")).unwrap();
        let first = schedule.next_ms(hour - 1).unwrap();
        assert!((hour..hour + STAGGER_DEFAULT_MS).contains(&first));
        assert_eq!(schedule.next_ms(first), Some(first + 3_600_000));
        assert_eq!(schedule.next_ms(first - 1), Some(first));
        seen.insert(first);
    }
    assert!(seen.len() > 32, "{seen:?}");
    let daily = cron("0 3 * * *", "UTC");
    assert_eq!(daily.next_ms(hour), Some(ms("2026-11-26T03:00:00Z")));
    let asked = |stagger_ms| {
        Schedule::parse(
            &CronSchedule::Cron {
                expr: "0 3 * * *".into(),
                tz: None,
                stagger_ms: Some(stagger_ms),
            },
            "job",
        )
    };
    let next = asked(60_000).unwrap().next_ms(hour).unwrap();
    assert!((0..60_000).contains(&(next - ms("2026-11-26T03:00:00Z"))));
    assert!(
        asked(300_001)
            .unwrap_err()
            .to_string()
            .contains("staggerMs")
    );
}

#[test]
fn what_came_due_while_nobody_looked() {
    let minutely = cron("* * * * *", "UTC");
    let first = ms("2026-11-25T10:00:00Z");
    assert_eq!(minutely.due(first, first - 1, 3), Due::default());
    let due = minutely.due(first, first + 30_000, 3);
    assert_eq!((due.last, due.earlier, due.more), (vec![first], 0, false));
    let due = minutely.due(first, first + 5 * 60_000, 2);
    assert_eq!(due.last, [first + 4 * 60_000, first + 5 * 60_000]);
    assert_eq!((due.earlier, due.more), (4, false));
    // A year of a job that runs each second is not gone through.
    let year = 365 * 86_400_000;
    for schedule in [
        cron("* * * * * *", "Europe/Berlin"),
        Schedule::Every {
            every_ms: 1_000,
            anchor_ms: first,
        },
    ] {
        let begun = std::time::Instant::now();
        let due = schedule.due(first, first + year, 2);
        assert_eq!(due.last, [first + year - 1_000, first + year]);
        assert!(due.more && due.earlier == COUNTED_MAX);
        assert!(begun.elapsed().as_secs() < 5);
    }
    let once = Schedule::At(first);
    assert_eq!(once.due(first, first + year, 5).last, [first]);
}

/// Cases of a property: more of them in the long run.
fn cases() -> u32 {
    if std::env::var("GATEWAY_LONG").as_deref() == Ok("1") {
        12_000
    } else {
        1_000
    }
}

/// One field: a star, a step, a value, a list, a range, a range with a step.
fn field(min: u32, max: u32) -> BoxedStrategy<String> {
    let value = min..=max;
    prop_oneof![
        3 => Just("*".to_owned()),
        1 => (1..=max).prop_map(|step| format!("*/{step}")),
        3 => value.clone().prop_map(|v| v.to_string()),
        1 => proptest::collection::vec(value.clone(), 2..4)
            .prop_map(|all| all.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        2 => (value.clone(), value.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (value.clone(), value, 1..=max.min(20))
            .prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b))),
    ]
    .boxed()
}

/// Day fields without `*/n`: there crontab(5) and the oracle differ (see `day_fields_join_as_crontab_says`).
fn day_field(min: u32, max: u32) -> BoxedStrategy<String> {
    field(min, max)
        .prop_filter("a star with a step", |text| !text.starts_with("*/"))
        .boxed()
}

/// The same next times as an independent implementation, for five and six fields, in UTC and over changes of the clock.
/// Covers: F10.
#[test]
fn the_next_times_are_those_of_an_independent_implementation() {
    const ZONES: [Tz; 6] = [
        Tz::UTC,
        Tz::Europe__Berlin,
        Tz::America__New_York,
        Tz::Australia__Sydney,
        Tz::Asia__Kolkata,
        Tz::America__Sao_Paulo,
    ];
    let from = ms("2026-01-01T00:00:00Z");
    let anywhere = 0..(2 * 365 * 86_400_i64);
    // Every third case begins less than two days before a change of the clock.
    let near = prop::sample::select(vec![
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-04-04T16:00:00Z",
        "2026-10-03T16:00:00Z",
    ])
    .prop_flat_map(move |change| {
        (0..172_800_i64).prop_map(move |before| (ms(change) - from) / 1_000 - before)
    });
    let strategy = (
        prop_oneof![Just(String::new()), field(0, 59)],
        field(0, 59),
        field(0, 23),
        day_field(1, 31),
        field(1, 12),
        day_field(0, 7),
        0..ZONES.len(),
        prop_oneof![2 => anywhere.boxed(), 1 => near.boxed()],
        0..1_000_i64,
    );
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        failure_persistence: None,
        ..Config::default()
    });
    let compared = std::cell::Cell::new(0_u32);
    runner
        .run(
            &strategy,
            |(second, minute, hour, day, month, weekday, zone, start, millis)| {
                let expr = format!("{second} {minute} {hour} {day} {month} {weekday}")
                    .trim()
                    .to_owned();
                let oracle = CronParser::builder()
                    .seconds(Seconds::Optional)
                    .build()
                    .parse(&expr)
                    .map_err(|e| TestCaseError::fail(format!("oracle refuses {expr}: {e}")))?;
                let wire = CronSchedule::Cron {
                    expr: expr.clone(),
                    tz: None,
                    stagger_ms: Some(0),
                };
                let Ok(ours) = Schedule::parse(&wire, "job") else {
                    // Only days that do not exist are refused.
                    prop_assert!(refused(&expr).contains("never comes due"), "{}", expr);
                    return Ok(());
                };
                // The oracle calls fewer jobs fixed: only those with one time a day. The rest is compared where no clock is
                // ever changed.
                let one = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
                let clock = minute.starts_with('*') || hour.starts_with('*');
                let single = one(&minute) && one(&hour) && one(&second);
                let zone = if clock || single {
                    ZONES[zone]
                } else {
                    Tz::UTC
                };
                let ours = match ours {
                    Schedule::Cron { expr, delay_ms, .. } => Schedule::Cron {
                        expr,
                        zone,
                        delay_ms,
                    },
                    other => other,
                };
                let mut at = from + start * 1_000 + millis;
                for _ in 0..4 {
                    let after = DateTime::<Utc>::from_timestamp_millis(at)
                        .unwrap()
                        .with_timezone(&zone);
                    let Ok(expect) = oracle.find_next_occurrence(&after, false) else {
                        break;
                    };
                    let expect = expect.timestamp_millis();
                    // Beyond this the search of the given crate ends.
                    if expect > ms("2099-12-31T00:00:00Z") {
                        break;
                    }
                    let got = ours.next_ms(at);
                    prop_assert_eq!(got, Some(expect), "{} in {} after {}", expr, zone, after);
                    compared.set(compared.get() + 1);
                    at = expect;
                }
                Ok(())
            },
        )
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(compared.get() > cases() * 2, "{} compared", compared.get());
}

/// Whatever the schedule: the next time is later, nothing lies between, and asking again from just before gives the same.
/// Covers: F10.
#[test]
fn the_next_time_is_the_first_one() {
    let strategy = (
        field(0, 59),
        field(0, 23),
        day_field(1, 31),
        day_field(0, 7),
        prop::sample::select(vec![
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
        ]),
        0..(366 * 86_400_i64),
    );
    let mut runner = TestRunner::new(Config {
        cases: cases() / 2,
        failure_persistence: None,
        ..Config::default()
    });
    let from = ms("2026-01-01T00:00:00Z");
    runner
        .run(&strategy, |(minute, hour, day, weekday, tz, start)| {
            let expr = format!("{minute} {hour} {day} * {weekday}");
            let schedule = cron(&expr, tz);
            let after = from + start * 1_000;
            let next = schedule.next_ms(after).unwrap();
            prop_assert!(next > after);
            prop_assert_eq!(schedule.next_ms(next - 1), Some(next));
            prop_assert_eq!(schedule.next_ms(after + (next - after) / 2), Some(next));
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}
