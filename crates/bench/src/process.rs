//! Memory and CPU time of processes on this machine, from `/proc`.

use std::fs;

/// CPU time of a clock tick: Linux reports in hundredths of a second.
const TICK_MS: u64 = 10;

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> Option<u64> {
    status_number(pid, "VmRSS:")
}

/// The most resident memory a process has had since it began, or since [`forget_peak`].
pub(crate) fn peak_kib(pid: u32) -> Option<u64> {
    status_number(pid, "VmHWM:")
}

/// Begins the peak of a process anew. Takes the rights of its user; without them the peak stays what it was.
pub(crate) fn forget_peak(pid: u32) {
    // proc(5): 5 resets the peak.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Files a process has open, sockets included. Takes the rights of its user.
pub(crate) fn open_files(pid: u32) -> Option<u64> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

/// Threads of a process.
pub(crate) fn threads(pid: u32) -> Option<u64> {
    status_number(pid, "Threads:")
}

fn status_number(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// User and system time a process has used.
pub(crate) fn cpu_ms(pid: u32) -> Option<u64> {
    let fields = stat(pid)?;
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // utime and stime are the 14th and 15th field of the file, the first after the name being the 3rd.
    Some((ticks(11)? + ticks(12)?) * TICK_MS)
}

/// CPU time of a process, of all its living children, and of those it has already waited for.
pub(crate) fn family_cpu_ms(parent: u32) -> Option<u64> {
    let waited = stat(parent)?;
    let waited_ticks: u64 = [13, 14]
        .iter()
        .filter_map(|at| waited.get(*at)?.parse::<u64>().ok())
        .sum();
    let children: u64 = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .filter_map(cpu_ms)
        .sum();
    Some(cpu_ms(parent)? + waited_ticks * TICK_MS + children)
}

/// The parent of a process.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The fields of `/proc/<pid>/stat` after the name, which may itself hold blanks and parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
