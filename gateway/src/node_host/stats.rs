//! The numbers of this machine, as Linux tells them.

use serde_json::{Value, json};

/// Processors, load and memory; `None` where they cannot be read.
pub fn now() -> Option<Value> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let cpus = std::thread::available_parallelism().ok()?.get();
    Some(from(cpus, &load, &memory))
}

fn from(cpus: usize, load: &str, memory: &str) -> Value {
    let load: Vec<f64> = load
        .split_whitespace()
        .take(3)
        .filter_map(|n| n.parse().ok())
        .collect();
    let bytes = |name: &str| -> Option<u64> {
        let line = memory.lines().find(|l| l.starts_with(name))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        kib.checked_mul(1024)
    };
    json!({
        "cpuCount": cpus,
        "loadAverage": load,
        "memoryTotalBytes": bytes("MemTotal:"),
        "memoryFreeBytes": bytes("MemAvailable:"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        let got = from(
            2,
            "0.10 0.20 0.30 1/99 7\n",
            "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 50 kB\n",
        );
        let expected = json!({
            "cpuCount": 2, "loadAverage": [0.1, 0.2, 0.3], "memoryTotalBytes": 102_400, "memoryFreeBytes": 51_200,
        });
        assert_eq!(got, expected);
    }
}
