//! Latency in the runtime that a model is deployed in.

use super::command::{Folder, Run, fixture, json};

#[cfg(unix)]
#[test]
fn a_command_times_both_models_and_the_report_holds_what_it_printed() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let run =
        Run::prune(&fixture("digits_mlp.onnx"), &out).args("--ratio 0.5 --threads 2").arg("--report").arg(&report);
    let said = run.arg("--bench-cmd").arg("wc -c < {model}").exits(0);
    let latencies = json(&report)["latencies"].as_array().unwrap().clone();
    let of_command = latencies.iter().find(|latency| latency["runtime"] == "wc").unwrap();
    let median = |model: &str| of_command[model]["median_ms"].as_f64().unwrap();
    assert_eq!(median("before"), std::fs::metadata(fixture("digits_mlp.onnx")).unwrap().len() as f64);
    assert_eq!(median("after"), std::fs::metadata(&out).unwrap().len() as f64);
    assert!(said.out.contains("latency (wc)") && said.out.contains("× as fast"), "{}", said.out);
}

/// A command that fails once all work is done is no reason to lose the result.
#[cfg(unix)]
#[test]
fn a_command_that_fails_later_leaves_the_result_and_a_note() {
    let folder = Folder::new();
    let (out, once) = (folder.at("out.onnx"), folder.at("once"));
    let run = Run::prune(&fixture("digits_mlp.onnx"), &out).args("--ratio 0.5");
    let command = format!("test ! -e {0} && touch {0} && echo 1 # {{model}}", once.display());
    let said = run.arg("--bench-cmd").arg(command).exits(0);
    assert!(out.exists() && said.out.contains("not measured by your command"), "{}", said.out);
}

#[cfg(unix)]
#[test]
fn a_result_that_is_slower_is_told_with_a_remedy() {
    let folder = Folder::new();
    let run = Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--ratio 0.5");
    // The smaller the file, the larger the number.
    let said = run.arg("--bench-cmd").arg("echo $((1000000000 / $(wc -c < {model})))").exits(0);
    assert!(said.out.contains("the result is slower in echo") && said.out.contains("--align 16"), "{}", said.out);
}

#[test]
fn what_cannot_be_measured_in_is_refused_before_any_work() {
    let folder = Folder::new();
    let run = |typed: &[&str]| {
        let run = Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--ratio 0.5");
        typed.iter().fold(run, |run, word| run.arg(word))
    };
    run(&["--bench-cmd", "trtexec"]).exits(2).complains(&["{model}"]);
    run(&["--bench-cmd", "exit 3; {model}"]).exits(3).complains(&["fails"]);
    run(&["--onnxruntime", "nowhere"]).exits(2).complains(&["nowhere", "not an ONNX Runtime library"]);
    run(&["--threads", "0"]).exits(2).complains(&["--threads"]);
    let wrong = folder.write("libonnxruntime.so", "no library");
    run(&["--onnxruntime", wrong.to_str().unwrap()]).exits(3).complains(&["libonnxruntime.so", "does not load"]);
    let run = Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--ratio 0.5");
    run.env("ORT_DYLIB_PATH", wrong.to_str().unwrap()).exits(3).complains(&["does not load"]);
    assert_eq!(folder.names(), ["libonnxruntime.so"]);
}

/// A prune job of the residual network in tract, with a table of operator times in `folder`.
fn to_latency(folder: &Folder, out: &str, latency: &str) -> Run {
    let run =
        Run::prune(&fixture("digits_resnet.onnx"), &folder.at(out)).args("--runtime tract --latency").arg(latency);
    run.arg("--bench-table").arg(folder.at("times.json"))
}

#[test]
fn a_latency_budget_is_predicted_measured_and_its_times_are_kept() {
    let folder = Folder::new();
    let report = folder.at("report.json");
    let said = to_latency(&folder, "out.onnx", "85%").arg("--report").arg(&report).exits(0);
    assert!(said.out.contains("latency budget: ") && said.out.contains("predicted, "), "{}", said.out);
    let budget = json(&report)["latency_budget"].clone();
    let rounds = budget["rounds"].as_array().unwrap().clone();
    assert!(!rounds.is_empty() && rounds.iter().all(|round| round["after"]["median_ms"].as_f64().unwrap() > 0.0));
    // The best result is the last one, and need not be the first that was tried.
    assert!(rounds.iter().any(|round| round["predicted"].as_f64().unwrap() <= 0.85), "{budget}");
    assert!(budget["timed"].as_u64().unwrap() > 10 && budget["estimated"] == 0, "{budget}");
    let times = budget["times"].as_array().unwrap();
    let sum = |figure: &str| times.iter().map(|time| time[figure].as_f64().unwrap()).sum::<f64>();
    assert_eq!(times.len(), budget["operators"]);
    let share = sum("after_ms") / sum("before_ms");
    let predicted = rounds.last().unwrap()["predicted"].as_f64().unwrap();
    assert!((share - predicted).abs() < 1e-3, "{share} {predicted}");
    let model = json(&report)["model"].clone();
    assert!(model["after"]["macs"].as_u64() < model["before"]["macs"].as_u64());
    let again = folder.at("again.json");
    to_latency(&folder, "again.onnx", "85%").arg("--report").arg(&again).exits(0);
    assert_eq!(json(&again)["latency_budget"]["timed"], 0);
}

/// What another machine recorded decides alone, so that the result is the same every time.
#[test]
fn a_table_is_recorded_and_used_on_another_machine() {
    let folder = Folder::new();
    let table = folder.at("times.json");
    let said = Run::new("bench-table").arg(fixture("digits_resnet.onnx")).args("--runtime tract -o").arg(&table);
    let said = said.exits(0);
    assert!(said.out.contains("tract") && said.out.contains("timed"), "{}", said.out);
    let mut recorded = json(&table);
    recorded["places"][0]["device"] = "another processor".into();
    std::fs::write(&table, recorded.to_string()).unwrap();
    let written = ["first.onnx", "second.onnx"].map(|out| {
        let said = to_latency(&folder, out, "85%").exits(0);
        assert!(said.out.contains("another processor") && said.out.contains("not measured"), "{}", said.out);
        std::fs::read(folder.at(out)).unwrap()
    });
    assert_eq!(written[0], written[1]);
}

/// All means are compared at the predicted time, and the result of the best one is measured.
#[test]
fn means_are_mixed_to_a_latency() {
    let folder = Folder::new();
    let report = folder.at("report.json");
    let run = Run::new("compress").arg(fixture("digits_resnet.onnx")).arg("-o").arg(folder.at("out.onnx"));
    let run = run.args("--effort fast --latency 80% --runtime tract --data").arg(fixture("calib.npz"));
    let said = run.arg("--bench-table").arg(folder.at("times.json")).arg("--report").arg(&report).exits(0);
    assert!(said.out.contains("latency budget: ") && said.out.contains("predicted, "), "{}", said.out);
    let budget = json(&report)["latency_budget"].clone();
    let rounds = budget["rounds"].as_array().unwrap().clone();
    assert!(!rounds.is_empty() && rounds.iter().all(|round| round["after"]["median_ms"].as_f64().unwrap() > 0.0));
    assert_eq!(budget["estimated"], 0, "{budget}");
}

/// A table of another machine has no times of split layers, so that their multiply–accumulates decide.
#[test]
fn layers_are_split_to_a_latency_on_another_machine() {
    let folder = Folder::new();
    let table = folder.at("times.json");
    Run::new("bench-table").arg(fixture("digits_resnet.onnx")).args("--runtime tract -o").arg(&table).exits(0);
    let mut recorded = json(&table);
    recorded["places"][0]["device"] = "another processor".into();
    std::fs::write(&table, recorded.to_string()).unwrap();
    let written = ["first.onnx", "second.onnx"].map(|out| {
        let run = Run::new("factorize").arg(fixture("digits_resnet.onnx")).arg("-o").arg(folder.at(out));
        let said = run.args("--runtime tract --latency 85% --bench-table").arg(&table).exits(0);
        assert!(said.out.contains("another processor"), "{}", said.out);
        assert!(said.out.contains("are estimates from multiply–accumulates"), "{}", said.out);
        std::fs::read(folder.at(out)).unwrap()
    });
    assert_eq!(written[0], written[1]);
}

#[test]
fn a_latency_that_cannot_be_asked_for_is_refused() {
    let folder = Folder::new();
    to_latency(&folder, "out.onnx", "8").exits(2).complains(&["8ms"]);
    to_latency(&folder, "out.onnx", "100%").exits(2).complains(&["--latency"]);
    to_latency(&folder, "out.onnx", "60%").args("--thaw input").exits(2).complains(&["--latency", "--thaw"]);
    let steps = to_latency(&folder, "out.onnx", "60%").args("--retrain 1 --checkpoint-dir steps");
    steps.exits(2).complains(&["--latency", "checkpoints"]);
    to_latency(&folder, "out.onnx", "1us").exits(4).complains(&["out of reach"]);
    let wrong = folder.write("times.json", "{}");
    to_latency(&folder, "out.onnx", "60%").exits(3).complains(&[wrong.to_str().unwrap(), "no table of times"]);
}
