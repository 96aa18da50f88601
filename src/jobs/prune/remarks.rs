//! What a report says of groups: why they stayed whole, sizes that hardware does not like, statistics that shift.

use std::collections::BTreeMap;

use super::options::{PruneOptions, Target};
use crate::axes::{Role, Selection};
use crate::plan::{Align, Group, Misaligned};
use crate::report::{PriceReport, Report};

/// The groups whose removal shifts a statistic, as far as they lose units.
pub(super) fn shifted<'g>(groups: &'g [Group], selection: &'g Selection) -> impl Iterator<Item = &'g Group> {
    groups.iter().filter(|group| matches!(group.role, Role::Shifts(_)) && !selection.keeps_all(group.factor))
}

/// Groups whose removal is not exact.
pub(super) fn on_shifts(groups: &[Group], selection: &Selection) -> Option<String> {
    let shifted: Vec<&str> = shifted(groups, selection).map(|group| group.name.as_str()).collect();
    let first = shifted.first()?;
    Some(format!("the removal is not exact where it shifts a statistic: {} (first: {first})", counted(shifted.len())))
}

/// Groups whose sizes are not those that the hardware computes in.
pub(super) fn on_sizes(groups: &[Group], selection: &Selection, options: &PruneOptions) -> Vec<String> {
    let Align::For(hardware) = options.align else { return Vec::new() };
    let mut notes = Vec::new();
    let partly: Vec<&Group> = groups.iter().filter(|group| group.kept_partly(selection)).collect();
    if let Some((first, why)) = partly.iter().find_map(|group| Some((group, group.misaligned.as_ref()?))) {
        notes.push(format!(
            "not a multiple of the block size of {}: {} (first: {}: {why})",
            hardware.name(),
            counted(partly.len()),
            first.name
        ));
    }
    let is_whole = |group: &&Group| group.is_open(options.allow_shifts) && is_too_small(group, options, false);
    let whole: Vec<&Group> = groups.iter().filter(is_whole).collect();
    if let Some(first) = whole.first() {
        notes.push(format!(
            "too small to be narrowed to a multiple of what {} computes in, so that all units stay: {} (first: {}, {} {}); \
             `align` 1 opens them",
            hardware.name(),
            counted(whole.len()),
            first.name,
            first.size,
            first.kind.name()
        ));
    }
    notes
}

/// Enters why groups kept all units that they could have lost.
pub(super) fn explain_whole(report: &mut Report, groups: &[Group], options: &PruneOptions) {
    let prices = report.pricing.iter().flat_map(|pricing| &pricing.groups);
    let prices: BTreeMap<&str, &PriceReport> = prices.map(|price| (price.name.as_str(), price)).collect();
    let is_open = |group: &&Group| group.is_open(options.allow_shifts);
    let open: BTreeMap<&str, &Group> =
        groups.iter().filter(is_open).map(|group| (group.name.as_str(), group)).collect();
    for entry in report.groups.iter_mut().filter(|entry| entry.kept == entry.size && entry.reason.is_none()) {
        let name = entry.name.as_str();
        entry.kept_whole = open.get(name).and_then(|group| why_whole(group, prices.get(name).copied(), options));
    }
}

/// Why an open group lost nothing, if it is known.
fn why_whole(group: &Group, price: Option<&PriceReport>, options: &PruneOptions) -> Option<String> {
    if is_too_small(group, options, false) {
        return Some("too small to be narrowed to a size that the hardware computes quickly".to_owned());
    }
    if let (Target::Macs(_), Some(Misaligned::Small { block, .. })) = (&options.target, &group.misaligned)
        && is_too_small(group, options, true)
    {
        return Some(format!("fewer than {} units would take the time of a whole block of {block}", group.size));
    }
    let price = price?;
    let Some((width, loss)) = price.next else { return price.reason.clone() };
    Some(format!("a removal costs less elsewhere for what it saves: with {width}, the output would lose {loss:.5}"))
}

/// Whether no narrower size is open.
fn is_too_small(group: &Group, options: &PruneOptions, whole_blocks: bool) -> bool {
    group.sizes(options.min_keep, whole_blocks).len() == 1
}

fn counted(groups: usize) -> String {
    format!("{groups} group{}", if groups == 1 { "" } else { "s" })
}
