//! What the process costs, read from `/proc` when somebody asks; elsewhere there are no such figures.
//!
//! Written as text beside the recorder's: CPU time is a counter with fractions, and the recorder counts whole things.

use std::fmt::Write;
use std::fs;

use crate::figures::{FIGURES, Kind};

/// The figures in Prometheus' text format.
pub(crate) fn render() -> String {
    let mut text = String::new();
    let memory = read_status("VmRSS:").map(|kilobytes| kilobytes * 1024.0);
    for (name, value) in [
        ("process_cpu_seconds_total", cpu_s()),
        ("process_resident_memory_bytes", memory),
        ("process_open_fds", open_files()),
        ("process_max_fds", max_files()),
        ("process_threads", read_status("Threads:")),
    ] {
        let figure = FIGURES.iter().find(|figure| figure.name == name);
        let (Some(figure), Some(value)) = (figure, value) else {
            continue;
        };
        let kind = match figure.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Histogram => "gauge",
        };
        let help = figure.help;
        // A string takes all that is written to it.
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n"
        );
    }
    text
}

/// The number after a name in `/proc/self/status`.
fn read_status(name: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time (`proc(5)`: fields 14 and 15 of `/proc/self/stat`, in clock ticks).
fn cpu_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, a name in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let ticks: f64 = times.next()?.parse::<f64>().ok()? + times.next()?.parse::<f64>().ok()?;
    // Far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let per_s = rustix::param::clock_ticks_per_second() as f64;
    Some(ticks / per_s)
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // Far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    Some(count as f64)
}

fn max_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
