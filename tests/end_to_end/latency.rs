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
