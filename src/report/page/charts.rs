//! Charts as inline SVG. They hold no text, so that they stretch to any width; labels stand around them.
//!
//! Every mark has a title. The script of the page shows it below the chart, where the pointer, a finger or the arrow keys
//! reach it. Bars of one kind are one path, so that a network of a thousand layers opens at once; their titles are in
//! `data-titles`, a line each.

use std::fmt::Write as _;

use super::text::escape;

/// Width and height of a chart in its own units.
const SIZE: (f64, f64) = (1000.0, 200.0);

/// Least width of a bar on the screen, in pixels: charts with more bars scroll.
const LEAST: usize = 4;

/// A layer in a chart of bars.
pub(super) struct Bar {
    /// What is shown for it.
    pub(super) title: String,
    pub(super) before: f64,
    pub(super) after: f64,
}

/// Bars of all layers, before (behind) and after (in front). `shown` formats a height; empty without bars.
pub(super) fn bars(caption: &str, bars: &[Bar], shown: impl Fn(f64) -> String) -> String {
    let most = bars.iter().flat_map(|bar| [bar.before, bar.after]).filter(|h| h.is_finite()).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let slot = SIZE.0 / bars.len() as f64;
    let path = |class: &str, figure: fn(&Bar) -> f64| {
        let outlines = bars.iter().enumerate().fold(String::new(), |mut all, (index, bar)| {
            let figure = figure(bar);
            // What is there is seen.
            if figure > 0.0 {
                let height = (figure / most * SIZE.1).clamp(1.0, SIZE.1);
                let (left, width) = (slot * (index as f64 + 0.08), slot * 0.84);
                let _ = write!(all, "M{left:.2} {}v-{height:.1}h{width:.2}v{height:.1}z", SIZE.1);
            }
            all
        });
        format!("<path class=\"{class}\" d=\"{outlines}\"/>\n")
    };
    let marks = path("before", |bar| bar.before)
        + &path("after", |bar| bar.after)
        + &format!("<rect class=\"mark\" width=\"{slot:.2}\" height=\"{}\" visibility=\"hidden\"/>\n", SIZE.1);
    let titles: Vec<String> = bars.iter().map(|bar| bar.title.replace(['\n', '\r'], " ")).collect();
    let legend = [("before", "before"), ("after", "after")];
    let least = bars.len() * LEAST;
    let ends = [shown(most), shown(0.0), "first layer".to_owned(), "last layer".to_owned()];
    frame((caption, "bars"), (&marks, &titles.join("\n")), &legend, &ends, least)
}

/// Points of one kind, which may be joined by a line.
pub(super) struct Series {
    /// Style and name: `before`, `after`, `lost`.
    pub(super) class: &'static str,
    pub(super) name: &'static str,
    /// x, y and what is shown for the point.
    pub(super) points: Vec<(f64, f64, String)>,
    pub(super) is_joined: bool,
}

/// Points over a plane; empty unless there are two points.
pub(super) fn points(
    caption: &str,
    series: &[Series],
    x_shown: impl Fn(f64) -> String,
    y_shown: impl Fn(f64) -> String,
) -> String {
    let all: Vec<(f64, f64)> = series.iter().flat_map(|series| &series.points).map(|&(x, y, _)| (x, y)).collect();
    let range = |axis: fn(&(f64, f64)) -> f64| {
        let finite = all.iter().map(axis).filter(|figure| figure.is_finite());
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| (low.min(figure), high.max(figure)))
    };
    let (xs, ys) = (range(|point| point.0), range(|point| point.1));
    if all.len() < 2 || xs.0 >= xs.1 || ys.0 > ys.1 {
        return String::new();
    }
    // Room around the points, so that none is cut at the edge.
    let at = |x: f64, y: f64| {
        let share = |figure: f64, (low, high): (f64, f64)| if high > low { (figure - low) / (high - low) } else { 0.5 };
        (SIZE.0 * (0.02 + 0.96 * share(x, xs)), SIZE.1 * (0.96 - 0.92 * share(y, ys)))
    };
    let mut marks = String::new();
    for Series { class, points, is_joined, .. } in series {
        let places = points.iter().filter(|(x, y, _)| x.is_finite() && y.is_finite());
        if *is_joined {
            let line: String = places.clone().map(|&(x, y, _)| at(x, y)).fold(String::new(), |mut line, (x, y)| {
                let _ = write!(line, "{x:.1},{y:.1} ");
                line
            });
            let _ = writeln!(marks, "<polyline class=\"line {class}\" points=\"{}\"/>", line.trim_end());
        }
        for (x, y, title) in places {
            let (left, top) = at(*x, *y);
            // A line of no length with round ends stays a dot when the chart is stretched.
            let _ = writeln!(
                marks,
                "<g class=\"m\"><title>{}</title><path class=\"dot {class}\" d=\"M{left:.1} {top:.1}h0\"/></g>",
                escape(title)
            );
        }
    }
    let legend: Vec<(&str, &str)> = series.iter().map(|series| (series.class, series.name)).collect();
    frame((caption, "points"), (&marks, ""), &legend, &[y_shown(ys.1), y_shown(ys.0), x_shown(xs.0), x_shown(xs.1)], 0)
}

/// A chart with its caption and kind, its marks, the titles of those that have none of their own, its legend, and the ends of
/// its axes: top, bottom, left, right.
fn frame(
    (caption, kind): (&str, &str),
    (marks, titles): (&str, &str),
    legend: &[(&str, &str)],
    ends: &[String; 4],
    least_width: usize,
) -> String {
    let caption = escape(caption);
    let titles = if titles.is_empty() { String::new() } else { format!(" data-titles=\"{}\"", escape(titles)) };
    let legend = legend.iter().fold(String::new(), |mut all, (class, name)| {
        let _ = write!(all, "<span class=\"key {class}\">{}</span>", escape(name));
        all
    });
    let (width, height) = SIZE;
    let [top, bottom, left, right] = ends.each_ref().map(|end| escape(end));
    format!(
        "<figure class=\"{kind}\">\n<figcaption>{caption} <span class=\"legend\">{legend}</span></figcaption>\n\
         <div class=\"plot\"><div class=\"axis\" aria-hidden=\"true\"><span>{top}</span><span>{bottom}</span></div>\n\
         <div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"{caption}: the arrow keys go from mark to mark\"{titles}>\n\
         <svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{caption}\" \
         style=\"min-width:{least_width}px\">\n{marks}</svg></div></div>\n\
         <div class=\"ends\" aria-hidden=\"true\"><span>{left}</span><span>{right}</span></div>\n\
         <p class=\"readout\" aria-live=\"polite\"></p>\n</figure>\n"
    )
}

/// How much of `whole` is left, as a small bar.
pub(super) fn share(kept: usize, whole: usize) -> String {
    let left = if whole > 0 { 100.0 * kept as f64 / whole as f64 } else { 100.0 };
    format!(
        "<svg class=\"share\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"before\" width=\"100\" height=\"10\"/><rect class=\"after\" width=\"{left:.1}\" height=\"10\"/></svg>"
    )
}

/// Two times with their spread, on a scale from zero to `most`: median as a bar, quartiles as a line over it.
pub(super) fn times(times: [(f64, f64, f64); 2], most: f64) -> String {
    let scaled = |time: f64| if most > 0.0 { 100.0 * time / most } else { 0.0 };
    let mut marks = String::new();
    for ((low, median, high), (class, top)) in times.into_iter().zip([("before", 0.0), ("after", 10.0)]) {
        let (low, median, high) = (scaled(low), scaled(median), scaled(high));
        let middle = top + 4.5;
        let _ = write!(
            marks,
            "<rect class=\"{class}\" y=\"{top}\" width=\"{median:.2}\" height=\"9\"/>\
             <path class=\"spread\" d=\"M{low:.2} {middle}H{high:.2}\"/>"
        );
    }
    format!(
        "<svg class=\"times\" viewBox=\"0 0 100 19\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{marks}</svg>"
    )
}
