//! What a report says of the program and the machine it was made with.

use crate::cli::machine;
use std::time::{SystemTime, UNIX_EPOCH};

/// Program and machine, in the order to be told.
pub(super) fn machine_facts(device: &str) -> Vec<(String, String)> {
    let features: Vec<_> = [
        ("hub", cfg!(feature = "hub")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ]
    .into_iter()
    .filter_map(|(name, built)| built.then_some(name))
    .collect();
    let build = if cfg!(debug_assertions) { ", not optimised: times mean little" } else { "" };
    let features = if features.is_empty() { String::new() } else { format!(" ({})", features.join(", ")) };
    let mut facts = vec![
        ("program", format!("impasto {}{features}{build}", env!("CARGO_PKG_VERSION"))),
        ("device", device.to_owned()),
        ("threads", rayon::current_num_threads().to_string()),
    ];
    if let Some(name) = processor() {
        facts.push(("processor", name));
    }
    facts.push(("instructions", machine::simd().join(" ")));
    facts.push(("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)));
    if let Some(bytes) = machine::available_memory() {
        facts.push(("memory available", machine::human(bytes)));
    }
    if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
        facts.push(("made on", day(since.as_secs() / 86_400)));
    }
    facts.into_iter().filter(|(_, fact)| !fact.is_empty()).map(|(what, fact)| (what.to_owned(), fact)).collect()
}

#[cfg(target_os = "linux")]
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(not(target_os = "linux"))]
fn processor() -> Option<String> {
    None
}

/// The date of a day counted from 1970-01-01, in UTC (Hinnant's civil_from_days).
fn day(days: u64) -> String {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (days, date) in [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_781, "2026-11-24")] {
            assert_eq!(day(days), date);
        }
    }
}
