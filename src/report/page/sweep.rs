//! The page of a sweep: the front as a picture, and all points as a table.

use super::charts::{self, Series};
use super::document;
use super::text::{Cell, Column, escape, list, ms, paragraph, section, table};
use crate::report::figures::{human_bytes, human_count, percent};
use crate::report::{SweepPoint, SweepReport};

impl SweepReport {
    /// Formats the report as one page of HTML that needs no other file and no network.
    pub fn to_html(&self) -> String {
        page(self)
    }
}

/// The page of a sweep.
fn page(report: &SweepReport) -> String {
    let title = report.file.as_deref().unwrap_or("a model in memory");
    let missing = report.points.iter().filter_map(|point| Some(format!("{}: {}", point.name, point.reason.as_ref()?)));
    let commands: Vec<String> = report.commands.iter().map(|line| escape(line)).collect();
    let commands = commands.join("\n");
    let commands = if commands.is_empty() { commands } else { format!("<pre><code>{commands}\n</code></pre>\n") };
    let content = [
        format!("<p class=\"quiet\">One model at several sizes</p>\n<h1>{}</h1>\n", escape(title)),
        section("Size and quality", &front(report)),
        section("All budgets", &points(report)),
        section("Budgets that no model meets", &list(missing)),
        section("Repeat it", &commands),
    ];
    document(title, &content.concat())
}

/// What remains of the counted figure, and what is lost: the points that nothing beats are joined.
fn front(report: &SweepReport) -> String {
    let whole = report.cost(&report.before).max(1) as f64;
    let place = |point: &SweepPoint| {
        let remaining = report.cost(&point.after) as f64 / whole;
        let lost = point.lost?;
        let title = format!("{}: {} remain, loses {}", point.name, percent(remaining), percent(lost));
        Some((remaining, lost, title))
    };
    let with_model = || report.points.iter().filter(|point| point.hash.is_some());
    let mut best: Vec<_> = with_model().filter(|point| point.on_front).filter_map(place).collect();
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    let others = with_model().filter(|point| !point.on_front).filter_map(place).collect();
    let original = vec![(1.0, 0.0, "the original".to_owned())];
    let series = [
        Series { class: "before", name: "the original", points: original, is_joined: false },
        Series { class: "after", name: "the front", points: best, is_joined: true },
        Series { class: "lost", name: "beaten by another size", points: others, is_joined: false },
    ];
    let quality = report.quality.as_deref().unwrap_or("quality");
    let counted = match report.counted.as_str() {
        "params" => "parameters",
        "size" => "bytes",
        _ => "multiply–accumulates",
    };
    let text = format!(
        "A size is on the front if no other size has fewer {counted} and loses as little. The loss is that of {quality}."
    );
    let caption = format!("What is lost ({quality}), by the {counted} that remain");
    paragraph(&text) + &charts::points(&caption, &series, percent, percent)
}

fn points(report: &SweepReport) -> String {
    let columns = [
        Column::Text("Budget"),
        Column::Text("On the front"),
        Column::Figure("Parameters"),
        Column::Figure("MACs"),
        Column::Figure("File"),
        Column::Figure("Latency"),
        Column::Figure("Speed"),
        Column::Figure("Quality"),
        Column::Figure("Loss"),
        Column::Figure("Relative L2"),
    ];
    let figures = |name: &str, figures: &crate::report::ModelFigures| -> Vec<Cell> {
        vec![
            name.into(),
            "".into(),
            human_count(figures.params).into(),
            human_count(figures.macs).into(),
            human_bytes(figures.bytes).into(),
        ]
    };
    let shown = |figure: Option<f64>| figure.map(|figure| format!("{figure:.4}")).unwrap_or_default();
    let row = |point: &SweepPoint| -> Vec<Cell> {
        let mut row = figures(&point.name, &point.after);
        if let (Some(mark), true) = (row.get_mut(1), point.on_front) {
            *mark = "yes".into();
        }
        let (time, speed) = match point.latencies.first() {
            Some(latency) => (ms(latency.after.median_ms), format!("{:.2}×", latency.speedup())),
            None => (point.after.latency_ms.map(ms).unwrap_or_default(), String::new()),
        };
        let lost = point.lost.map(percent).unwrap_or_default();
        let distance = point.verify.rel_l2.map(|x| format!("{x:.3}")).unwrap_or_default();
        row.extend([time, speed, shown(point.quality), lost, distance].map(Cell::from));
        row
    };
    let mut original = figures("the original", &report.before);
    let time =
        report.points.iter().find_map(|point| point.latencies.first()).map(|latency| ms(latency.before.median_ms));
    let time = time.or(report.before.latency_ms.map(ms)).unwrap_or_default();
    original.extend([time, String::new(), shown(report.quality_before), String::new(), String::new()].map(Cell::from));
    let found = report.points.iter().filter(|point| point.hash.is_some()).map(row);
    let runtime = report.points.iter().find_map(|point| point.latencies.first());
    let runtime = runtime.map_or("tract", |latency| latency.runtime.as_str());
    table(&format!("Results, with the latency in {runtime}"), &columns, [original].into_iter().chain(found))
}
