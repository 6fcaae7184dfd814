//! What the machine has: instruction sets, memory, disk. Every answer is optional; none is worth an error.

use std::path::Path;

/// Instruction sets that the kernels may use, as this processor has them.
pub(crate) fn simd() -> Vec<&'static str> {
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_mut))]
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })* };
        }
        detect!("avx", "avx2", "fma", "f16c", "avx512f", "avx512bf16", "avx512fp16");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })* };
        }
        detect!("neon", "fp16", "bf16", "dotprod", "i8mm", "sve");
    }
    found
}

/// The most memory this process had at once, in bytes.
// getrusage would do here too, but it starts from what the parent process had before exec.
#[cfg(target_os = "linux")]
pub(crate) fn peak_memory() -> Option<u64> {
    proc_kib("/proc/self/status", "VmHWM:")
}

/// The most memory this process had at once, in bytes.
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn peak_memory() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?.checked_mul(unit)
}

/// The most memory this process had at once, in bytes.
#[cfg(not(unix))]
pub(crate) fn peak_memory() -> Option<u64> {
    None
}

/// Begins counting [`peak_memory`] anew, where the system can.
pub(crate) fn forget_peak_memory() {
    // Linux alone; "5" resets the high-water mark (proc(5)).
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory that can be had without swapping, in bytes.
#[cfg(target_os = "linux")]
pub(crate) fn available_memory() -> Option<u64> {
    proc_kib("/proc/meminfo", "MemAvailable:")
}

/// Memory that can be had without swapping, in bytes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn available_memory() -> Option<u64> {
    None
}

/// Free disk space where `path` is, or would be, in bytes.
#[cfg(unix)]
// The types differ between systems.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn free_disk(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|folder| folder.exists())?;
    let disk = nix::sys::statvfs::statvfs(there).ok()?;
    (disk.blocks_available() as u64).checked_mul(disk.fragment_size() as u64)
}

/// Free disk space where `path` is, or would be, in bytes.
#[cfg(not(unix))]
pub(crate) fn free_disk(_: &Path) -> Option<u64> {
    None
}

/// Bytes as a person reads them.
pub(crate) fn human(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(target_os = "linux")]
fn proc_kib(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_memory_and_disk() {
        assert!(peak_memory().unwrap() > 1 << 20);
        assert!(available_memory().unwrap() > 1 << 20);
        assert!(free_disk(Path::new("/tmp/not/there")).is_some());
    }
}
