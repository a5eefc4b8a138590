//! The text exposition format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use crate::Distribution;

/// What kind of number a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, and starts at 0 with the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Ranges.
    Histogram,
}

/// Families of numbers, written one after the other. All samples of a family follow its head.
#[derive(Debug, Default)]
pub struct Exposition {
    out: String,
    name: String,
}

impl Exposition {
    /// The `Content-Type` of the text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family. `help` is one line.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        name.clone_into(&mut self.name);
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a text cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One number of the family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, None, value);
    }

    /// One whole number of the family.
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) {
        // Whole numbers are exact up to 2^53: more than anything here reaches.
        #[allow(clippy::cast_precision_loss)]
        self.line("", labels, None, value as f64);
    }

    /// One distribution of the family.
    pub fn histogram(&mut self, labels: &[(&str, &str)], value: &Distribution) {
        let mut below = 0;
        let bounds = value.bounds;
        for (upper, count) in bounds.upper.iter().zip(&value.counts) {
            below += count;
            #[allow(clippy::cast_precision_loss)]
            let end = number(*upper as f64 * bounds.scale);
            self.whole("_bucket", labels, Some(&end), below);
        }
        self.whole("_bucket", labels, Some("+Inf"), value.count());
        #[allow(clippy::cast_precision_loss)]
        self.line("_sum", labels, None, value.sum as f64 * bounds.scale);
        self.whole("_count", labels, None, value.count());
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    fn whole(&mut self, suffix: &str, labels: &[(&str, &str)], end: Option<&str>, value: u64) {
        #[allow(clippy::cast_precision_loss)]
        self.line(suffix, labels, end, value as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], end: Option<&str>, value: f64) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        let all = labels.iter().copied().chain(end.map(|end| ("le", end)));
        let mut separator = '{';
        for (name, text) in all {
            let _ = write!(self.out, "{separator}{name}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {}", number(value));
    }
}

/// Without the noise of binary fractions (0.0005 instead of 0.0004999…).
fn number(value: f64) -> String {
    let text = format!("{value:.9}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Histogram, SIZES};

    #[test]
    fn families_labels_and_ranges() {
        let mut text = Exposition::default();
        text.family("a_total", Kind::Counter, "All\nof them.");
        text.count(&[], 3);
        text.count(&[("x", "q\"\\\n"), ("y", "z")], 12_345_678_901);
        text.family("b", Kind::Gauge, "One.");
        text.sample(&[], 0.0005);
        let histogram = Histogram::new(&SIZES);
        histogram.observe(3);
        text.family("c", Kind::Histogram, "Sizes.");
        text.histogram(&[("t", "m")], &histogram.read());
        assert_eq!(
            text.finish(),
            "# HELP a_total All\\nof them.\n# TYPE a_total counter\na_total 3\n\
             a_total{x=\"q\\\"\\\\\\n\",y=\"z\"} 12345678901\n\
             # HELP b One.\n# TYPE b gauge\nb 0.0005\n\
             # HELP c Sizes.\n# TYPE c histogram\n\
             c_bucket{t=\"m\",le=\"1\"} 0\nc_bucket{t=\"m\",le=\"2\"} 0\nc_bucket{t=\"m\",le=\"4\"} 1\n\
             c_bucket{t=\"m\",le=\"8\"} 1\nc_bucket{t=\"m\",le=\"16\"} 1\nc_bucket{t=\"m\",le=\"64\"} 1\n\
             c_bucket{t=\"m\",le=\"256\"} 1\nc_bucket{t=\"m\",le=\"512\"} 1\nc_bucket{t=\"m\",le=\"+Inf\"} 1\n\
             c_sum{t=\"m\"} 3\nc_count{t=\"m\"} 1\n"
        );
    }
}
