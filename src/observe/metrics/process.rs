//! What the operating system reports about this process, under the names that every Prometheus client uses.

use std::path::Path;
use std::time::Duration;

/// A gauge or counter of the process.
pub(super) struct ProcessMetric {
    /// Time on a processor.
    pub(super) cpu_seconds: f64,
    /// Resident memory, where `/proc` tells it.
    pub(super) resident_bytes: Option<u64>,
    /// Open descriptors, where `/proc` tells them.
    pub(super) open_fds: Option<u64>,
    /// The most descriptors that may be open.
    pub(super) max_fds: Option<u64>,
}

pub(super) fn facts() -> ProcessMetric {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = Duration::from_secs(u64::try_from(spent.tv_sec).unwrap_or(0));
    let cpu = seconds.saturating_add(Duration::from_nanos(
        u64::try_from(spent.tv_nsec).unwrap_or(0),
    ));
    ProcessMetric {
        cpu_seconds: cpu.as_secs_f64(),
        resident_bytes: resident_bytes(Path::new("/proc/self/status")),
        // Reading the directory opens one more.
        open_fds: std::fs::read_dir("/proc/self/fd")
            .ok()
            .and_then(|fds| u64::try_from(fds.count()).ok()),
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
    }
}

/// `VmRSS:     12345 kB`
fn resident_bytes(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}
