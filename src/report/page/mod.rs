//! The report as one HTML page: no network, no fonts, readable on a phone, printed, in light and dark.

mod charts;
mod latency;
mod sweep;
mod text;

use charts::{Bar, Series};
use latency::latency_budget;
use text::{Cell, Column, escape, folded, list, ms, paragraph, section, short_table, table};

use super::figures::{change, human_bytes, human_count, percent};
use super::{
    CalibrationReport, EpochReport, GroupReport, LayerReport, NodeReport, PricingReport, Report, SearchReport,
    TuningReport,
};

/// Style of the page.
const STYLE: &str = include_str!("style.css");

/// Script of the page: figures of a chart under a finger or by the arrow keys, and what is printed.
const SCRIPT: &str = include_str!("script.js");

impl Report {
    /// Formats the report as one page of HTML that needs no other file and no network.
    pub fn to_html(&self) -> String {
        page(self)
    }
}

/// The page of a report.
fn page(report: &Report) -> String {
    let title = report.file.as_deref().unwrap_or("a model in memory");
    let body = [
        section("What changed", &layers_of_network(&report.network)),
        section("Quality", &quality(report)),
        section("Latency", &latency(report)),
        section("The latency budget", &report.latency_budget.as_ref().map(latency_budget).unwrap_or_default()),
        section("What was removed", &removed(report)),
        section("What was split", &split(report)),
        section("What stayed, and why", &stayed(report)),
        section("How the budget was shared", &report.pricing.iter().map(pricing).collect::<String>()),
        section("The search", &report.search.as_ref().map(search).unwrap_or_default()),
        section("Repair", &report.calibration.as_ref().map(repair).unwrap_or_default()),
        section("Training", &report.training.iter().map(training).collect::<String>()),
        section("Notes", &list(report.notes.iter().cloned())),
        section("Repeat it", &commands(report)),
    ];
    let content = format!(
        "<p class=\"quiet\">Report of paredown on</p>\n<h1>{}</h1>\n{}{}",
        escape(title),
        tiles(report),
        body.concat()
    );
    document(title, &content)
}

/// A whole document around `content`.
fn document(title: &str, content: &str) -> String {
    let (title, version) = (escape(title), env!("CARGO_PKG_VERSION"));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"paredown {version}\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title} – paredown</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{content}</main>\n<footer class=\"quiet\"><p>paredown {version}</p></footer>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

/// The figures that matter most.
fn tiles(report: &Report) -> String {
    let (before, after) = (&report.model.before, &report.model.after);
    let mut tiles = Vec::new();
    let mut tile = |what: &str, old: String, new: String, change: String| {
        let change = if change.is_empty() { change } else { format!(" ({change})") };
        tiles.push(format!(
            "<li><span>{}</span><strong>{}</strong><span>from {}{}</span></li>\n",
            escape(what),
            escape(&new),
            escape(&old),
            escape(&change)
        ));
    };
    let counts: [(&str, u64, u64, fn(u64) -> String); 3] = [
        ("Parameters", before.params, after.params, human_count),
        ("Multiply–accumulates", before.macs, after.macs, human_count),
        ("File", before.bytes, after.bytes, human_bytes),
    ];
    for (what, old, new, shown) in counts {
        tile(what, shown(old), shown(new), change(old, new));
    }
    if let Some(latency) = report.latencies.first() {
        let (old, new) = (latency.before.median_ms, latency.after.median_ms);
        let speed = format!("{:.2}× as fast", latency.speedup());
        tile(&format!("Latency in {}", latency.runtime), ms(old), ms(new), speed);
    } else if let (Some(old), Some(new)) = (before.latency_ms, after.latency_ms) {
        tile("Latency in tract", ms(old), ms(new), format!("{:.2}× as fast", old / new.max(1e-9)));
    }
    let accuracy = &report.verify.accuracy;
    if let Some(metric) = &report.metric {
        tile("Your metric", format!("{:.4}", metric.before), format!("{:.4}", metric.after), String::new());
    } else if let (Some(old), Some(new)) = (accuracy.before, accuracy.after) {
        tile("Accuracy", percent(old), percent(new), format!("{:+.2} points", 100.0 * (new - old)));
    } else if let Some((old, new)) = report.verify.r2 {
        tile("R² on labels", format!("{old:.4}"), format!("{new:.4}"), String::new());
    }
    format!("<ul class=\"tiles\">\n{}</ul>\n", tiles.concat())
}

/// The network as a picture: widths and weights of all layers, with a table of the same figures.
fn layers_of_network(layers: &[NodeReport]) -> String {
    let told = |layer: &NodeReport, before: String, after: Option<String>| {
        let rank = layer.rank.map(|rank| format!(", rank {rank}")).unwrap_or_default();
        let after = after.unwrap_or_else(|| "removed".to_owned());
        format!("{} ({}): {before} → {after}{rank}", layer.name, layer.op)
    };
    let width = |layer: &NodeReport| Bar {
        title: told(layer, layer.before.width.to_string(), layer.after.map(|size| size.width.to_string())),
        before: layer.before.width as f64,
        after: layer.after.map_or(0.0, |size| size.width as f64),
    };
    let weight = |layer: &NodeReport| Bar {
        title: told(layer, human_count(layer.before.params), layer.after.map(|size| human_count(size.params))),
        before: layer.before.params as f64,
        after: layer.after.map_or(0.0, |size| size.params as f64),
    };
    let widths: Vec<Bar> = layers.iter().map(width).collect();
    let weights: Vec<Bar> = layers.iter().map(weight).collect();
    let row = |layer: &NodeReport| -> Vec<Cell> {
        let (before, after) = (layer.before, layer.after);
        let gone = || "–".to_owned();
        let split = layer.rank.map(|rank| format!(" (rank {rank})")).unwrap_or_default();
        vec![
            layer.name.clone().into(),
            layer.op.clone().into(),
            before.width.to_string().into(),
            (after.map_or_else(gone, |size| size.width.to_string()) + &split).into(),
            human_count(before.params).into(),
            after.map_or_else(gone, |size| human_count(size.params)).into(),
        ]
    };
    let columns = [
        Column::Text("Layer"),
        Column::Text("Operator"),
        Column::Figure("Width before"),
        Column::Figure("after"),
        Column::Figure("Weights before"),
        Column::Figure("after"),
    ];
    let figure = |height: f64| format!("{height:.0}");
    charts::bars("Width of every layer, from input to output", &widths, figure)
        + &charts::bars("Weights of every layer", &weights, short_count)
        + &folded("All layers as a table", &table("Layers", &columns, layers.iter().map(row)))
}

/// A count on an axis.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts are whole and not negative
fn short_count(count: f64) -> String {
    human_count(count as u64)
}

/// How good the result is: labels, the user's metric, and the distance from the original's outputs.
fn quality(report: &Report) -> String {
    let verify = &report.verify;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut row = |what: &str, before: String, after: String, meaning: String| {
        rows.push(vec![what.into(), before.into(), after.into(), meaning.into()]);
    };
    if let (Some(old), Some(new)) = (verify.accuracy.before, verify.accuracy.after) {
        row("Accuracy on labels", percent(old), percent(new), format!("{:+.2} points", 100.0 * (new - old)));
    }
    if let Some((old, new)) = verify.r2 {
        row("R² on labels", format!("{old:.4}"), format!("{new:.4}"), format!("{:+.4}", new - old));
    }
    if let Some(metric) = &report.metric {
        let direction = if metric.lower_is_better { "lower is better" } else { "higher is better" };
        let meaning = format!("{}; {direction}; loses {}", metric.name, percent(metric.lost()));
        row("Your metric", format!("{:.4}", metric.before), format!("{:.4}", metric.after), meaning);
    }
    let mut single = |what: &str, value: Option<String>, meaning: &str| {
        if let Some(value) = value {
            row(what, String::new(), value, meaning.to_owned());
        }
    };
    single("Samples", verify.samples.map(|samples| samples.to_string()), verify.of_samples());
    single("Top-1 agreement", verify.top1_agreement.map(percent), "share of samples with the original's class");
    single("Cosine similarity", verify.cosine.map(|x| format!("{x:.4}")), "of the outputs with the original's");
    single("Relative L2 distance", verify.rel_l2.map(|x| format!("{x:.3}")), "from the original's outputs");
    single("Valid", verify.valid.map(|valid| if valid { "yes" } else { "no" }.to_owned()), "tract loads and runs it");
    let exact = "largest deviation of the removal from masking, before repair; at most 1e-4";
    single("Exactness", verify.exact_max_rel.map(|x| format!("{x:.1e}")), exact);
    let unproved = verify.valid.is_none();
    let columns = [Column::Text(""), Column::Figure("Before"), Column::Figure("After"), Column::Text("")];
    let warning = if unproved {
        paragraph("The model was not run, so it is not proved to be valid and exact.")
    } else {
        String::new()
    };
    warning + &table("Quality of the result", &columns, rows)
}

/// Time of one run in every runtime: medians and quartiles.
fn latency(report: &Report) -> String {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    if let (Some(old), Some(new)) = (report.model.before.latency_ms, report.model.after.latency_ms) {
        let picture = charts::times([(old, old, old), (new, new, new)], old.max(new));
        let speed = format!("{:.2}×", old / new.max(1e-9));
        rows.push(vec!["tract".into(), ms(old).into(), ms(new).into(), speed.into(), Cell::Made(picture)]);
    }
    for latency in &report.latencies {
        let (old, new) = (latency.before, latency.after);
        let threads = latency.threads.map(|count| format!(", {count} thread{}", if count == 1 { "" } else { "s" }));
        let spread = |time: &crate::latency::Timing| {
            format!("{:.3} ms ({:.3} to {:.3})", time.median_ms, time.low_ms, time.high_ms)
        };
        let scale = old.high_ms.max(new.high_ms);
        let picture = [(old.low_ms, old.median_ms, old.high_ms), (new.low_ms, new.median_ms, new.high_ms)];
        let speed = format!("{:.2}×", latency.speedup());
        let slower = if latency.is_slower() { format!("<span class=\"bad\">{speed} (slower)</span>") } else { speed };
        rows.push(vec![
            format!("{}{}", latency.runtime, threads.unwrap_or_default()).into(),
            spread(&old).into(),
            spread(&new).into(),
            Cell::Made(slower),
            Cell::Made(charts::times(picture, scale)),
        ]);
    }
    let columns = [
        Column::Text("Runtime"),
        Column::Figure("Before"),
        Column::Figure("After"),
        Column::Figure("Speed"),
        Column::Text(""),
    ];
    let compared = report.latencies.iter().filter_map(|latency| {
        let difference = latency.difference?;
        let runtime = &latency.runtime;
        Some(paragraph(&format!(
            "The outputs of both models in {runtime} differ from those in tract by at most {difference:.0e} of their largest value."
        )))
    });
    let compared: String = compared.collect();
    table("Time of one run: median, and quartiles where many runs were timed", &columns, rows) + &compared
}

/// Columns of the tables of groups.
const GROUP_COLUMNS: [Column; 5] = [
    Column::Text("Group"),
    Column::Text("Units"),
    Column::Figure("Kept"),
    Column::Figure("Parameters"),
    Column::Text("Why"),
];

fn group_row(group: &GroupReport) -> Vec<Cell> {
    let kept = format!("{}{} of {}", charts::share(group.kept, group.size), group.kept, group.size);
    vec![
        group.name.clone().into(),
        group.axis.clone().into(),
        Cell::Made(kept),
        human_count(group.params).into(),
        group.why().or(group.misaligned.as_deref()).unwrap_or_default().to_owned().into(),
    ]
}

/// The groups that lost units.
fn removed(report: &Report) -> String {
    let removed = report.groups.iter().filter(|group| group.kept < group.size);
    short_table("Groups that lost units", &GROUP_COLUMNS, removed.map(group_row))
}

/// The groups and layers that stayed as they were, and what froze them.
fn stayed(report: &Report) -> String {
    let stays = |group: &&GroupReport| group.kept == group.size && group.size > 1;
    let (frozen, whole): (Vec<&GroupReport>, Vec<&GroupReport>) =
        report.groups.iter().filter(stays).partition(|group| group.role == "frozen");
    let kept: Vec<&LayerReport> = report.layers.iter().filter(|layer| layer.rank.is_none()).collect();
    let heading = |count: usize, what: &str| format!("{count} {what}");
    let nodes = report
        .frozen
        .iter()
        .map(|node| vec![node.node.clone().into(), node.op.clone().into(), node.reason.clone().into()]);
    let columns = [Column::Text("Node"), Column::Text("Operator"), Column::Text("Why")];
    let nodes = short_table("Nodes that no rule understands: everything that they touch stays", &columns, nodes);
    short_table(
        "Groups that could lose units, and lost none",
        &GROUP_COLUMNS,
        whole.iter().map(|group| group_row(group)),
    ) + &nodes
        + &folded(
            &heading(frozen.len(), "frozen groups"),
            &table(
                "Frozen groups, with the node and the reason",
                &GROUP_COLUMNS,
                frozen.iter().map(|group| group_row(group)),
            ),
        )
        + &folded(&heading(kept.len(), "layers were not split"), &layer_table("Layers that were not split", &kept))
}

/// The layers that were split into layers of low rank.
fn split(report: &Report) -> String {
    let split: Vec<&LayerReport> = report.layers.iter().filter(|layer| layer.rank.is_some()).collect();
    layer_table("Layers that were split", &split)
}

fn layer_table(caption: &str, layers: &[&LayerReport]) -> String {
    let columns = [
        Column::Text("Layer"),
        Column::Text("Operator"),
        Column::Text("Shape"),
        Column::Figure("Rank"),
        Column::Figure("Parameters after"),
        Column::Figure("Error"),
        Column::Figure("Time in tract"),
        Column::Text("Why"),
    ];
    let row = |layer: &&LayerReport| -> Vec<Cell> {
        let shape: Vec<String> = layer.shape.iter().map(ToString::to_string).collect();
        vec![
            layer.name.clone().into(),
            layer.op.clone().into(),
            shape.join("×").into(),
            layer.rank.map(|rank| rank.to_string()).unwrap_or_default().into(),
            human_count(layer.params).into(),
            layer.error.map(|error| format!("{error:.2e}")).unwrap_or_default().into(),
            layer.latency_ms.map(|(old, new)| format!("{old:.3} → {new:.3} ms")).unwrap_or_default().into(),
            layer.reason.clone().unwrap_or_default().into(),
        ]
    };
    table(caption, &columns, layers.iter().map(row))
}

/// What the groups that share a budget cost the output.
fn pricing(pricing: &PricingReport) -> String {
    let PricingReport { metric, samples, loss, measured, groups, .. } = pricing;
    let mut text = format!("The budget is shared by {metric} on {samples} held-out samples: {loss:.4} expected");
    measured.iter().for_each(|measured| text += &format!(", {measured:.4} measured"));
    let columns = [
        Column::Text("Group"),
        Column::Figure("Kept"),
        Column::Figure("Loss"),
        Column::Figure("Next width"),
        Column::Figure("Its loss"),
        Column::Text("Why it is kept whole"),
    ];
    let rows = groups.iter().map(|group| -> Vec<Cell> {
        vec![
            group.name.clone().into(),
            group.kept.to_string().into(),
            group.loss.map(|loss| format!("{loss:.5}")).unwrap_or_default().into(),
            group.next.map(|(width, _)| width.to_string()).unwrap_or_default().into(),
            group.next.map(|(_, loss)| format!("{loss:.5}")).unwrap_or_default().into(),
            group.reason.clone().unwrap_or_default().into(),
        ]
    });
    paragraph(&(text + ".")) + &folded("What every group costs the output", &table("Losses of groups", &columns, rows))
}

/// The reductions that a search tried.
fn search(search: &SearchReport) -> String {
    let trials = search.trials.iter().filter_map(|trial| Some((trial, trial.lost?)));
    let (fits, others): (Vec<_>, Vec<_>) = trials.partition(|(trial, _)| trial.fits);
    let points = |trials: Vec<(&super::TrialReport, f64)>| {
        trials.into_iter().map(|(trial, lost)| (trial.macs, lost, trial.to_string())).collect()
    };
    let series = [
        Series { class: "after", name: "within the allowed loss", points: points(fits), is_joined: false },
        Series { class: "lost", name: "loses too much", points: points(others), is_joined: false },
    ];
    let samples = search.samples.map(|samples| format!(" on {samples} held-out samples")).unwrap_or_default();
    let text = format!(
        "The result loses {} of {}{samples}; {} were allowed.",
        percent(search.lost),
        search.figure,
        percent(search.allowed)
    );
    let bound = search.bound.map(|bound| paragraph(&format!("All samples like these: {bound}."))).unwrap_or_default();
    let caption = "Loss of every reduction that was tried, by the multiply–accumulates that remain";
    paragraph(&text)
        + &bound
        + &charts::points(caption, &series, percent, percent)
        + &list(search.trials.iter().map(|trial| format!("{trial} (multiply–accumulates that remain)")))
}

/// Errors of layers before and after repair.
fn repair(calibration: &CalibrationReport) -> String {
    let source = if calibration.synthetic { "synthetic samples, which say less than real ones" } else { "samples" };
    let text = format!("Calibrated on {} {source} (SHA-256 {}).", calibration.samples, calibration.hash);
    let shown = |error: f64| format!("{error:.2e}");
    let bars: Vec<Bar> = calibration
        .layers
        .iter()
        .filter_map(|layer| {
            let (before, after) = (layer.before?, layer.after?);
            let title = format!("{}: {} → {}", layer.name, shown(before), shown(after));
            Some(Bar { title, before, after })
        })
        .collect();
    let columns = [
        Column::Text("Layer"),
        Column::Figure("Error before"),
        Column::Figure("after"),
        Column::Figure("Rows of data"),
        Column::Text("Remarks"),
    ];
    let rows = calibration.layers.iter().map(|layer| -> Vec<Cell> {
        let with = (!layer.with.is_empty()).then(|| format!("together with {}", layer.with.join(", ")));
        let remarks = [layer.reason.clone(), layer.warning.clone(), with];
        let remarks: Vec<String> = remarks.into_iter().flatten().collect();
        vec![
            layer.name.clone().into(),
            layer.before.map(shown).unwrap_or_default().into(),
            layer.after.map(shown).unwrap_or_default().into(),
            layer.rows.map(|rows| rows.to_string()).unwrap_or_default().into(),
            remarks.join("; ").into(),
        ]
    });
    paragraph(&text)
        + &charts::bars("Relative squared error of every repaired layer, on held-out samples", &bars, shown)
        + &folded("All layers as a table", &table("Repair of layers", &columns, rows))
}

/// The course of a training run.
fn training(training: &TuningReport) -> String {
    let epochs: Vec<&EpochReport> = [&training.before].into_iter().chain(&training.epochs).collect();
    let whole = |epoch: f64| format!("epoch {epoch:.0}");
    let points = |figure: fn(&EpochReport) -> Option<f64>, shown: fn(f64) -> String| {
        let point = |epoch: &&EpochReport| {
            let figure = figure(epoch)?;
            Some((epoch.epoch as f64, figure, format!("epoch {}: {}", epoch.epoch, shown(figure))))
        };
        epochs.iter().filter_map(point).collect::<Vec<_>>()
    };
    let loss: fn(f64) -> String = |loss| format!("{loss:.4}");
    let losses = [
        Series { class: "before", name: "training samples", points: points(|epoch| epoch.loss, loss), is_joined: true },
        Series {
            class: "after",
            name: "held-out samples",
            points: points(|epoch| Some(epoch.held_out), loss),
            is_joined: true,
        },
    ];
    let accuracy = Series {
        class: "after",
        name: "held-out samples",
        points: points(|epoch| epoch.accuracy, percent),
        is_joined: true,
    };
    let text = format!(
        "Trained {} tensors ({} parameters) for {} epochs on {} samples. {} held-out samples chose the weights of epoch {}.",
        training.tensors,
        human_count(training.params),
        training.epochs.len(),
        training.samples,
        training.held_out,
        training.best_epoch
    );
    paragraph(&text)
        + &training.note.iter().map(|note| paragraph(note)).collect::<String>()
        + &charts::points(&format!("Loss ({})", training.loss), &losses, whole, loss)
        + &charts::points("Accuracy", &[accuracy], whole, percent)
}

/// The commands that repeat the job, and where its time went.
fn commands(report: &Report) -> String {
    let lines: Vec<String> = report.commands.iter().map(|line| escape(line)).collect();
    let lines = lines.join("\n");
    let lines = if lines.is_empty() { lines } else { format!("<pre><code>{lines}\n</code></pre>\n") };
    let columns = [Column::Text("Phase"), Column::Figure("Seconds")];
    let rows = report.seconds.iter().map(|(phase, seconds)| vec![phase.clone().into(), format!("{seconds:.2}").into()]);
    let memory = report
        .memory
        .and_then(|memory| memory.peak)
        .map(|peak| paragraph(&format!("Peak memory: {}.", human_bytes(peak))));
    lines
        + &folded(
            "Time and memory of the job",
            &(table("Time of every phase", &columns, rows) + &memory.unwrap_or_default()),
        )
}
