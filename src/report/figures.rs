//! Figures as text, as all views of a report show them.

/// A count with a unit: `774.0 k`, `11.69 M`.
pub fn human_count(count: u64) -> String {
    scaled(count, &["", " k", " M", " G", " T"])
}

/// Bytes with a decimal unit: `46.8 MB`.
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(count: u64, units: &[&str]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 { 0 } else { 2 };
    format!("{value:.digits$}{}", units.get(unit).copied().unwrap_or_default())
}

/// A share as text: `12.50 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// How a count has changed: `-48.3 %`; empty if there was none before.
pub(super) fn change(old: u64, new: u64) -> String {
    if old == 0 { String::new() } else { format!("{:+.1} %", 100.0 * (new as f64 / old as f64 - 1.0)) }
}
