//! The user's own metric judges a result, and its faults leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use paredown::{ErrorKind, Metric, Model, PruneOptions, VerifyOptions, prune, verify};

use crate::command::fixture;
#[cfg(unix)]
use crate::command::{Folder, Run, json};

/// A metric that is as good as the file is large, and counts its runs.
fn bytes(runs: &Arc<AtomicUsize>) -> Metric {
    let runs = Arc::clone(runs);
    Metric::new("bytes", move |model: &Model| {
        runs.fetch_add(1, Ordering::Relaxed);
        Ok(model.file_bytes() as f64)
    })
}

#[test]
fn a_search_loses_no_more_of_the_metric_than_it_may() {
    let (model, runs) = (Model::load(fixture("digits_mlp.onnx")).unwrap(), Arc::default());
    // No samples are needed: the metric has its own.
    let options = PruneOptions::max_drop(0.4).align(1).metric(bytes(&runs));
    let outcome = prune(&model, &options).unwrap().prove().unwrap();
    let (search, metric) = (outcome.report.search.unwrap(), outcome.report.metric.unwrap());
    assert_eq!((search.figure.as_str(), search.samples, runs.load(Ordering::Relaxed)), ("your metric", None, 8));
    assert_eq!((metric.before, metric.after), (model.file_bytes() as f64, outcome.model.file_bytes() as f64));
    assert!(search.lost <= 0.4 && search.lost > 0.3 && (metric.lost() - search.lost).abs() < 1e-12, "{search:?}");
}

#[test]
fn every_job_measures_the_metric_before_and_after() {
    let (model, runs) = (Model::load(fixture("digits_mlp.onnx")).unwrap(), Arc::default());
    let pruned = prune(&model, &PruneOptions::ratio(0.5).metric(bytes(&runs))).unwrap().prove().unwrap();
    let report = verify(&model, &pruned.model, &VerifyOptions::new().metric(bytes(&runs))).unwrap();
    assert_eq!((report.metric, runs.load(Ordering::Relaxed)), (pruned.report.metric, 4));
}

#[test]
fn a_metric_that_is_no_number_or_zero_is_refused_before_any_work() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    for (figure, words) in [(f64::NAN, "cannot be compared"), (0.0, "is 0")] {
        let metric = Metric::new("F1", move |_: &Model| Ok(figure));
        let error = prune(&model, &PruneOptions::max_drop(0.1).metric(metric)).unwrap_err();
        assert!(error.kind() == ErrorKind::Input && error.to_string().contains(words), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_command_is_the_metric_and_its_runs_are_said_beforehand() {
    let folder = Folder::new();
    let (out, report, log) = (folder.at("out.onnx"), folder.at("report.json"), folder.at("log"));
    let command = format!("echo ran >> {}; echo \"size: $(wc -c < {{model}})\"", log.display());
    let run = |out| Run::prune(&fixture("digits_mlp.onnx"), out).arg("--metric-cmd").arg(&command);
    let said = run(&out).args("--max-drop 40% --align 1 --report").arg(&report).exits(0);
    assert!(said.err.contains("measured 8 times at most"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 8);
    assert!(said.out.contains("your metric") && said.out.contains("% worse"), "{}", said.out);
    let metric = &json(&report)["metric"];
    assert_eq!(metric["after"].as_f64(), Some(std::fs::metadata(&out).unwrap().len() as f64));
    // A smaller file is better now, so everything may go.
    let best = folder.at("best.onnx");
    let said = run(&best).args("--max-drop 1% --align 1 --lower-is-better").exits(0);
    assert!(said.out.contains("% better"), "{}", said.out);
    assert!(std::fs::metadata(&best).unwrap().len() < std::fs::metadata(&out).unwrap().len());
    let again = Run::new("verify").arg(fixture("digits_mlp.onnx")).arg(&out).arg("--metric-cmd").arg(&command);
    assert!(again.exits(0).out.contains("your metric"));
}

#[cfg(unix)]
#[test]
fn a_command_that_fails_leaves_nothing_half_written() {
    let folder = Folder::new();
    let run = |command: &str, options: &str| {
        let run = Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--ratio 0.5").args(options);
        run.arg("--metric-cmd").arg(command)
    };
    run("python eval.py", "").exits(2).complains(&["{model}"]);
    run("echo ten # {model}", "").exits(3).complains(&["prints no number"]);
    run("echo nan # {model}", "").exits(3).complains(&["NaN", "cannot be compared"]);
    run("echo sorry >&2; exit 7 # {model}", "").exits(3).complains(&["fails", "sorry"]);
    run("sleep 30 # {model}", "--metric-timeout 0.2").exits(3).complains(&["did not end within 0.2 s"]);
    run("echo 1 # {model}", "--metric-timeout 0").exits(2).complains(&["is not a number of seconds"]);
    // The original has a figure, the result has none.
    let limit = std::fs::metadata(fixture("digits_mlp.onnx")).unwrap().len() * 3 / 4;
    run(&format!("test $(wc -c < {{model}}) -gt {limit} && echo 1"), "").exits(3).complains(&["fails"]);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}
