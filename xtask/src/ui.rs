//! What the user sees: one line when a step starts, one with its time when it ends, and a table at the close.

use std::time::{Duration, Instant};

/// Why a step failed: a sentence, and where there is one the exact next command.
pub type Result<T> = std::result::Result<T, String>;

/// Passed and failed checks of a step.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Count {
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
}

impl Count {
    /// Adds another step's figures.
    pub fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

struct Row {
    name: String,
    took: Duration,
    outcome: std::result::Result<String, String>,
}

/// The steps of one command, with their times.
pub struct Steps {
    command: &'static str,
    started: Instant,
    rows: Vec<Row>,
    /// All checks counted so far.
    pub count: Count,
}

impl Steps {
    /// Starts the clock of a command.
    pub fn new(command: &'static str) -> Self {
        Self {
            command,
            started: Instant::now(),
            rows: Vec::new(),
            count: Count::default(),
        }
    }

    /// Runs one step; its result is a short note for the summary. The error is kept and also returned as `None`.
    pub fn run(&mut self, name: &str, f: impl FnOnce() -> Result<String>) -> Option<String> {
        println!("[xtask {}] {name} …", self.command);
        let at = Instant::now();
        let outcome = f();
        let took = at.elapsed();
        match &outcome {
            Ok(note) if note.is_empty() => {
                println!("[xtask {}] {name}: ok ({})", self.command, human(took))
            }
            Ok(note) => println!("[xtask {}] {name}: {note} ({})", self.command, human(took)),
            Err(why) => println!(
                "[xtask {}] {name}: FAILED after {}: {why}",
                self.command,
                human(took)
            ),
        }
        let note = outcome.as_ref().ok().cloned();
        self.rows.push(Row {
            name: name.to_owned(),
            took,
            outcome,
        });
        note
    }

    /// Runs a step that counts checks. A step that fails without a failed check counts as one failed check.
    pub fn run_counted(&mut self, name: &str, f: impl FnOnce() -> (Count, Result<String>)) -> bool {
        let mut count = Count::default();
        let note = self.run(name, || {
            let (c, result) = f();
            count = c;
            result.map(|note| {
                let checks = format!("{} passed, {} failed", c.passed, c.failed);
                if note.is_empty() {
                    checks
                } else {
                    format!("{checks}; {note}")
                }
            })
        });
        if note.is_none() && count.failed == 0 {
            count.failed = 1;
        }
        self.count.add(count);
        note.is_some() && count.failed == 0
    }

    /// A step without checks of its own that must pass: a failure counts as one failed check, a pass as one passed.
    pub fn check(&mut self, name: &str, f: impl FnOnce() -> Result<String>) -> bool {
        let ok = self.run(name, f).is_some();
        if ok {
            self.count.passed += 1;
        } else {
            self.count.failed += 1;
        }
        ok
    }

    /// Whether any step failed.
    pub fn any_failed(&self) -> bool {
        self.rows.iter().any(|r| r.outcome.is_err())
    }

    /// Prints the table of steps.
    pub fn summary(&self) {
        println!();
        for row in &self.rows {
            let (mark, note) = match &row.outcome {
                Ok(note) => ("ok  ", note.as_str()),
                Err(why) => ("FAIL", why.lines().next().unwrap_or("")),
            };
            println!("  {mark} {:>8}  {:<28} {note}", human(row.took), row.name);
        }
        println!("  all  {:>8}", human(self.started.elapsed()));
    }

    /// `Ok` when every step passed, else the first failure's text.
    pub fn into_result(self) -> Result<()> {
        match self
            .rows
            .into_iter()
            .find_map(|r| r.outcome.err().map(|why| format!("{}: {why}", r.name)))
        {
            None => Ok(()),
            Some(why) => Err(why),
        }
    }
}

/// A duration for people: `850 ms`, `12.3 s`, `4 min 05 s`.
pub fn human(d: Duration) -> String {
    let ms = d.as_millis();
    if ms < 1_000 {
        format!("{ms} ms")
    } else if ms < 60_000 {
        format!("{:.1} s", d.as_secs_f64())
    } else {
        format!("{} min {:02} s", d.as_secs() / 60, d.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!(human(Duration::from_millis(850)), "850 ms");
        assert_eq!(human(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(human(Duration::from_secs(245)), "4 min 05 s");
    }

    #[test]
    fn a_failed_step_without_checks_counts_as_one_failure() {
        let mut steps = Steps::new("t");
        assert!(!steps.run_counted("x", || (Count::default(), Err("no".into()))));
        assert!(steps.run_counted("y", || (
            Count {
                passed: 3,
                failed: 0
            },
            Ok(String::new())
        )));
        assert_eq!(
            steps.count,
            Count {
                passed: 3,
                failed: 1
            }
        );
        assert!(steps.any_failed());
        assert_eq!(steps.into_result(), Err("x: no".to_owned()));
    }
}
