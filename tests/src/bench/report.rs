//! The table and the JSON.

use serde_json::{Value, json};

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At most so much.
    Max(f64),
    /// At least so much.
    Min(f64),
    /// At most so many times the bare figure.
    MaxRatio(f64),
    /// At least so many times the bare figure.
    MinRatio(f64),
    /// None: it explains another.
    None,
}

/// One line.
#[derive(Debug)]
pub struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    bare: Option<f64>,
    goal: Goal,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.bare.filter(|b| *b > 0.0).map(|b| self.ours / b)
    }

    fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::Max(most) => Some(self.ours <= most),
            Goal::Min(least) => Some(self.ours >= least),
            Goal::MaxRatio(most) => self.ratio().map(|r| r <= most),
            Goal::MinRatio(least) => self.ratio().map(|r| r >= least),
            Goal::None => None,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::Max(most) => format!("<= {} {}", number(most), self.unit),
            Goal::Min(least) => format!(">= {} {}", number(least), self.unit),
            Goal::MaxRatio(most) => format!("<= {most} x bare"),
            Goal::MinRatio(least) => format!(">= {least} x bare"),
            Goal::None => String::new(),
        }
    }
}

fn number(n: f64) -> String {
    if n >= 1000.0 {
        format!("{n:.0}")
    } else if n >= 10.0 {
        format!("{n:.1}")
    } else {
        format!("{n:.3}")
    }
}

/// All lines so far; each is printed as it is made.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Prints the head of the table.
    pub fn head(&self) {
        println!(
            "{:<58} {:>16} {:>12} {:>7}  {:<20} met",
            "what", "ours", "bare", "ratio", "goal"
        );
    }

    /// Adds and prints a line.
    pub fn row(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        ours: f64,
        bare: Option<f64>,
        goal: Goal,
    ) {
        let row = Row {
            name: name.into(),
            unit,
            ours,
            bare,
            goal,
        };
        println!(
            "{:<58} {:>16} {:>12} {:>7}  {:<20} {}",
            row.name,
            format!("{} {}", number(row.ours), row.unit),
            row.bare.map(number).unwrap_or_default(),
            row.ratio().map(|r| format!("{r:.2}")).unwrap_or_default(),
            row.goal_text(),
            match row.met() {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            }
        );
        self.rows.push(row);
    }

    /// Something that the reader has to know.
    pub fn note(&mut self, text: String) {
        println!("  ({text})");
        self.notes.push(text);
    }

    /// (met, missed).
    pub fn counts(&self) -> (usize, usize) {
        let met = self.rows.iter().filter(|r| r.met() == Some(true)).count();
        let missed = self.rows.iter().filter(|r| r.met() == Some(false)).count();
        (met, missed)
    }

    /// The report as JSON.
    pub fn json(&self, setting: Value) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|r| {
                json!({"name": r.name, "unit": r.unit, "ours": r.ours, "bare": r.bare, "ratio": r.ratio(),
                       "goal": r.goal_text(), "met": r.met()})
            })
            .collect();
        json!({"setting": setting, "rows": rows, "notes": self.notes})
    }
}

/// The middle of some figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
