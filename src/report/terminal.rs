//! The report as tables for a terminal.

use comfy_table::{CellAlignment, Table, presets};

use super::figures::{change, human_bytes, human_count, percent};
use super::folding::{once, rows, shortened};
use super::{
    CalibrationReport, CandidateReport, EpochReport, GroupReport, LatencyReport, ModelFigures, PricingReport,
    RepairReport, Report, SearchReport, SweepReport, TuningReport,
};
use crate::latency::{RuntimeLatency, Timing};

/// Layers that are named in one line.
const MOST_NAMES: usize = 3;

/// What `inspect` shows: the groups that a user can do something about, or `all` of them, with the reasons of those that
/// are held.
pub fn inspection(report: &Report, all: bool) -> String {
    let mut groups = table(&["group", "axis", "role", "size", "tensors", "params", "MACs", "why"], &[3, 4, 5, 6]);
    // Axes of kernels and positions, which an operator fixes.
    let is_fixed = |group: &&GroupReport| !all && group.role == "frozen" && group.axis == "indices";
    let (fixed, listed): (Vec<&GroupReport>, Vec<&GroupReport>) = report.groups.iter().partition(is_fixed);
    let figure = |group: &GroupReport| group.members.len();
    let lines: Vec<Vec<String>> =
        if all { listed.iter().flat_map(|&group| rows(&[group], figure)).collect() } else { rows(&listed, figure) };
    for line in lines {
        groups.add_row(line);
    }
    let figures = &report.model.before;
    let (params, macs) = (human_count(figures.params), human_count(figures.macs));
    let open = report.groups.iter().filter(|group| group.is_open()).count();
    let mut text = format!("{groups}\n");
    text += &format!("{params} parameters, {macs} MACs, {} in {} nodes; ", human_bytes(figures.bytes), figures.nodes);
    text += &format!("{open} of {} groups can be pruned\n", report.groups.len());
    if !fixed.is_empty() {
        text += &format!(
            "{} frozen axes (of kernels, positions, inputs and outputs) are not listed; `all` lists them\n",
            fixed.len()
        );
    }
    text + &remarks(report)
}

/// What a rewrite shows: the groups and layers that it considered, and the model before and after.
pub fn result(report: &Report) -> String {
    let mut text = String::new();
    if !report.groups.is_empty() {
        text += &format!("{}\n", groups_table(report));
    }
    if !report.layers.is_empty() {
        text += &format!("{}\n", layers_table(report));
    }
    report.pricing.iter().for_each(|pricing| text += &pricing_lines(pricing));
    text += &candidate_lines(&report.candidates);
    if let Some(calibration) = &report.calibration {
        text += &format!("{}\n", calibration_line(calibration));
    }
    for training in &report.training {
        text += &format!("{}\n", training_line(training));
    }
    text += &format!("{}\n{}", summary_table(report), remarks(report));
    report.latency_budget.iter().for_each(|budget| text += &budget_lines(budget));
    report.search.iter().for_each(|search| text += &search_line(search));
    text += &allocation_lines(report);
    if report.verify.valid.is_none() {
        text += "note: the model was not run, so it is not proved to be valid and exact\n";
    }
    text
}

/// What a sweep shows: its points, and which of them no other one beats.
pub fn points(report: &SweepReport) -> String {
    let quality = report.quality.as_deref().unwrap_or("quality");
    let mut table =
        table(&["budget", "parameters", "MACs", "file", "latency", quality, "loss", "front"], &[1, 2, 3, 4, 5, 6]);
    let mut add =
        |name: &str, figures: &ModelFigures, time: Option<f64>, quality: Option<f64>, lost: Option<f64>, mark: &str| {
            table.add_row(vec![
                name.to_owned(),
                human_count(figures.params),
                human_count(figures.macs),
                human_bytes(figures.bytes),
                time.map(|time| format!("{time:.3} ms")).unwrap_or_default(),
                quality.map(|figure| format!("{figure:.4}")).unwrap_or_default(),
                lost.map(percent).unwrap_or_default(),
                mark.to_owned(),
            ]);
        };
    let found = || report.points.iter().filter(|point| point.hash.is_some());
    let timed = found().find_map(|point| point.latencies.first());
    let time = timed.map(|latency| latency.before.median_ms).or(report.before.latency_ms);
    add("the original", &report.before, time, report.quality_before, None, "");
    for point in found() {
        let time = point.latencies.first().map(|latency| latency.after.median_ms).or(point.after.latency_ms);
        add(&point.name, &point.after, time, point.quality, point.lost, if point.on_front { "✓" } else { "" });
    }
    let runtime = timed.map_or("tract", |latency| latency.runtime.as_str());
    let mut text = format!("{table}\nlatency in {runtime}; a marked size is beaten by no other one\n");
    for point in &report.points {
        point.reason.iter().for_each(|why| text += &format!("no model for {}: {why}\n", point.name));
    }
    text
}

fn training_line(training: &TuningReport) -> String {
    let best = training.epochs.iter().find(|epoch| epoch.epoch == training.best_epoch).unwrap_or(&training.before);
    let shown = |epoch: &EpochReport| match epoch.accuracy {
        Some(share) => format!("{:.4} ({} correct)", epoch.held_out, percent(share)),
        None => format!("{:.4}", epoch.held_out),
    };
    let (tensors, params) = (training.tensors, human_count(training.params));
    let mut line = format!(
        "trained {tensors} tensors ({params} parameters) for {} epochs on {} samples, {} loss on {} held out: {} → {}",
        training.epochs.len(),
        training.samples,
        training.loss,
        training.held_out,
        shown(&training.before),
        shown(best)
    );
    if training.best_epoch < training.epochs.len() {
        line += &format!(" (weights of epoch {})", training.best_epoch);
    }
    if training.residual_sums > 0 {
        line += &format!(", also towards {} residual sums of the original", training.residual_sums);
    }
    if training.restarts > 0 {
        line += &format!(
            "\nnote: the held-out loss grew in the first epoch, so training started again with smaller steps; they ended at a rate of {:.1e}",
            training.rate
        );
    }
    training.note.iter().for_each(|note| line += &format!("\nnote: {note}"));
    line
}

fn search_line(search: &SearchReport) -> String {
    let trials: Vec<String> = search.trials.iter().map(ToString::to_string).collect();
    let bound = search.bound.map(|bound| format!("; {bound}")).unwrap_or_default();
    let samples = search.samples.map(|samples| format!(" on {samples} held-out samples")).unwrap_or_default();
    format!(
        "note: the result loses {} of {}{samples}{bound} (allowed: {}); shares of the MACs that were tried: {}\n",
        percent(search.lost),
        search.figure,
        percent(search.allowed),
        trials.join(" · ")
    )
}

/// A latency budget: what each result was predicted and measured to take.
fn budget_lines(budget: &LatencyReport) -> String {
    let LatencyReport { runtime, before_ms, wanted_ms, rounds, operators, .. } = budget;
    let mut text = format!(
        "latency budget: {wanted_ms:.3} ms of {before_ms:.3} ms ({}) by the times of {operators} operators in {runtime}\n",
        percent(wanted_ms / before_ms.max(1e-9))
    );
    for (index, round) in rounds.iter().enumerate() {
        text += &format!("  result {}: {round}\n", index + 1);
    }
    budget.verdict().iter().for_each(|verdict| text += &format!("  {verdict}\n"));
    text
}

/// How good the shares of a budget are, and what was put back.
fn allocation_lines(report: &Report) -> String {
    let mut text = String::new();
    if let Some(gap) = report.allocation_gap.filter(|&gap| gap > 0.0) {
        text += &format!("note: the predicted error is at most {} above the minimum\n", percent(gap));
    }
    match report.layers.iter().filter(|layer| layer.put_back).count() {
        0 => {}
        count => {
            text += &format!(
                "note: {count} layers that did not get faster were restored: the result is larger than the target\n"
            );
        }
    }
    text
}

/// Nodes that no rule understood, and notes.
fn remarks(report: &Report) -> String {
    let frozen = report.frozen.iter().map(|f| format!("frozen: {} ({}): {}\n", f.node, f.op, f.reason));
    frozen.chain(report.notes.iter().map(|note| format!("note: {note}\n"))).collect()
}

/// What each means loses under the budget.
fn candidate_lines(candidates: &[CandidateReport]) -> String {
    let line = |tried: &CandidateReport| {
        let chosen = if tried.is_chosen { " (chosen)" } else { "" };
        match (tried.loss, &tried.reason) {
            (Some(loss), _) => format!("{}: {loss:.4} lost on held-out samples{chosen}\n", tried.means),
            (None, why) => format!("{}: not possible: {}\n", tried.means, why.as_deref().unwrap_or_default()),
        }
    };
    candidates.iter().map(line).collect()
}

/// How a budget was shared: the sum of the prices, what all of it costs together, and the groups without a price.
fn pricing_lines(pricing: &PricingReport) -> String {
    let PricingReport { metric, samples, loss, measured, .. } = pricing;
    let mut text = format!("the budget is shared by {metric} on {samples} held-out samples: {loss:.4} expected");
    measured.iter().for_each(|measured| text += &format!(", {measured:.4} measured"));
    text += "\n";
    for group in &pricing.groups {
        group.reason.iter().for_each(|why| text += &format!("kept whole: {}: {why}\n", group.name));
    }
    text
}

fn calibration_line(calibration: &CalibrationReport) -> String {
    let source = if calibration.synthetic { "synthetic samples (lower confidence)" } else { "samples" };
    let repaired = calibration.layers.iter().filter(|layer| layer.reason.is_none()).count();
    let (samples, hash) = (calibration.samples, &calibration.hash);
    let repairs = match calibration.layers.len() {
        0 => String::new(),
        layers => format!(", {repaired} of {layers} layers repaired"),
    };
    let mut text = format!("calibrated on {samples} {source} (sha256 {hash}){repairs}");
    if let Some(reused) = calibration.reused {
        text += &format!(", {reused} results taken from the file of statistics");
    }
    text += &told(calibration, "not repaired", |layer| layer.reason.as_deref());
    text + &told(calibration, "warning", |layer| layer.warning.as_deref())
}

/// One line for each thing that is said about layers, with the layers that it is said about.
fn told(calibration: &CalibrationReport, what: &str, said: impl Fn(&RepairReport) -> Option<&str>) -> String {
    let layers = calibration.layers.iter().filter_map(|layer| Some((said(layer)?, layer.name.as_str())));
    let line = |(said, layers): (String, Vec<&str>)| {
        let shown: Vec<String> = layers.iter().take(MOST_NAMES).map(|name| shortened(name)).collect();
        let shown = shown.join(", ");
        let rest = layers.len().saturating_sub(MOST_NAMES);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("\n{what}: {shown}{more}: {said}")
    };
    once(layers).into_iter().map(line).collect()
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header.to_vec());
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn groups_table(report: &Report) -> String {
    let mut table = table(&["group", "axis", "role", "size", "kept", "params", "MACs", "why"], &[3, 4, 5, 6]);
    let is_held = |group: &GroupReport| group.kept == group.size && group.role == "frozen";
    let shown: Vec<&GroupReport> = report.groups.iter().filter(|group| !is_held(group)).collect();
    for row in rows(&shown, |group| group.kept) {
        table.add_row(row);
    }
    match report.groups.iter().filter(|group| is_held(group)).count() {
        0 => table.to_string(),
        held => {
            format!("{table}\n{held} frozen groups are not shown; `paredown inspect` lists them with their reasons")
        }
    }
}

fn layers_table(report: &Report) -> Table {
    let mut table = table(
        &["layer", "op", "shape", "rank", "90 %", "params", "MACs", "error", "ms", "decision", "why"],
        &[3, 4, 5, 6, 7, 8],
    );
    for layer in &report.layers {
        let shape: Vec<String> = layer.shape.iter().map(ToString::to_string).collect();
        table.add_row(vec![
            shortened(&layer.name),
            layer.op.clone(),
            shape.join("×"),
            layer.rank.map(|rank| rank.to_string()).unwrap_or_default(),
            layer.rank_for_90.map(|rank| rank.to_string()).unwrap_or_default(),
            human_count(layer.params),
            human_count(layer.macs),
            layer.error.map(|error| format!("{error:.2e}")).unwrap_or_default(),
            layer.latency_ms.map(|(before, after)| format!("{before:.3} → {after:.3}")).unwrap_or_default(),
            layer.decision.clone(),
            layer.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn summary_table(report: &Report) -> Table {
    let (before, after) = (&report.model.before, &report.model.after);
    let mut table = table(&["", "before", "after", "change"], &[1, 2, 3]);
    let counts: [(&str, u64, u64, fn(u64) -> String); 3] = [
        ("parameters", before.params, after.params, human_count),
        ("MACs", before.macs, after.macs, human_count),
        ("file", before.bytes, after.bytes, human_bytes),
    ];
    for (what, old, new, show) in counts {
        table.add_row(vec![what.to_owned(), show(old), show(new), change(old, new)]);
    }
    if let (Some(old), Some(new)) = (before.latency_ms, after.latency_ms) {
        let speed = format!("{:.2}× as fast", old / new.max(1e-9));
        table.add_row(vec!["latency (tract)".to_owned(), format!("{old:.3} ms"), format!("{new:.3} ms"), speed]);
    }
    for latency in &report.latencies {
        table.add_row(latency_row(latency));
    }
    let accuracy = &report.verify.accuracy;
    if let (Some(old), Some(new)) = (accuracy.before, accuracy.after) {
        let points = format!("{:+.2} points", 100.0 * (new - old));
        table.add_row(vec!["accuracy".to_owned(), percent(old), percent(new), points]);
    }
    if let Some((old, new)) = report.verify.r2 {
        table.add_row(vec![
            "R² on labels".to_owned(),
            format!("{old:.4}"),
            format!("{new:.4}"),
            format!("{:+.4}", new - old),
        ]);
    }
    if let Some(metric) = &report.metric {
        let change = match metric.lost() {
            share if share.is_infinite() => "worse than 0".to_owned(),
            share if share > 0.0 => format!("{} worse", percent(share)),
            share => format!("{} better", percent(-share)),
        };
        let shown = |figure: f64| format!("{figure:.4}");
        table.add_row(vec![METRIC.to_owned(), shown(metric.before), shown(metric.after), change]);
    }
    let mut single = |what: &str, value: Option<String>, meaning: &str| {
        if let Some(value) = value {
            table.add_row(vec![what.to_owned(), String::new(), value, meaning.to_owned()]);
        }
    };
    let verify = &report.verify;
    single("valid", verify.valid.map(|v| v.to_string()), "tract loads and runs it");
    for (runtime, difference) in report.latencies.iter().filter_map(|found| Some((&found.runtime, found.difference?))) {
        single(
            "runtimes agree",
            Some(format!("{difference:.0e}")),
            &format!("{runtime} and tract, to this difference"),
        );
    }
    single("exactness", verify.exact_max_rel.map(|x| format!("{x:.1e}")), "removal against masking, ≤ 1e-4");
    single("samples", verify.samples.map(|samples| samples.to_string()), verify.of_samples());
    single("relative L2", verify.rel_l2.map(|x| format!("{x:.3}")), "distance from the original's output");
    single("cosine", verify.cosine.map(|x| format!("{x:.4}")), "");
    single("top-1 agreement", verify.top1_agreement.map(percent), "");
    table
}

/// What the user's own metric is called in the table: its name may be a long command.
const METRIC: &str = "your metric";

/// What the terminal shows in red.
const SLOWER: &str = "slower";

/// The text with the words for a slower result in red.
pub fn coloured(text: &str) -> String {
    text.replace(&format!("{SLOWER}: "), &format!("\x1b[31m{SLOWER}\x1b[0m: "))
}

/// One runtime: medians with half of the distance between their quartiles.
fn latency_row(latency: &RuntimeLatency) -> Vec<String> {
    let threads = latency.threads.map(|threads| format!(", {threads} thread{}", if threads == 1 { "" } else { "s" }));
    let shown = |timing: &Timing| format!("{:.3} ± {:.3} ms", timing.median_ms, (timing.high_ms - timing.low_ms) / 2.0);
    let prefix = if latency.is_slower() { format!("{SLOWER}: ") } else { String::new() };
    vec![
        format!("latency ({}{})", latency.runtime, threads.unwrap_or_default()),
        shown(&latency.before),
        shown(&latency.after),
        format!("{prefix}{:.2}× as fast", latency.speedup()),
    ]
}
