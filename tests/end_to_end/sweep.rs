//! Several sizes from one job, in a folder that an interrupted sweep goes on in.

use paredown::{Model, PruneOptions, prune};

use crate::command::{Folder, Run, fixture, json};

fn sweep(folder: &Folder, budgets: &str) -> Run {
    let run = Run::new("sweep").arg(fixture("digits_mlp.onnx")).arg("-o").arg(folder.at("sizes"));
    run.args("--align 1 --macs").arg(budgets).arg("--data").arg(fixture("calib.npz"))
}

#[test]
fn every_budget_is_met_proved_and_written() {
    let folder = Folder::new();
    let said = sweep(&folder, "60,30,0.001%").exits(0);
    let report = json(&folder.at("sizes/sweep.json"));
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 3);
    for (point, share) in points.iter().zip([0.6, 0.3]) {
        let macs = |figures: &serde_json::Value| figures["macs"].as_u64().unwrap() as f64;
        assert!(
            macs(&point["after"]) <= share * macs(&report["before"]) && point["verify"]["valid"] == true,
            "{point}"
        );
        let name = point["name"].as_str().unwrap();
        let model = Model::load(folder.at(&format!("sizes/{name}.onnx"))).unwrap();
        assert!(model.file_bytes() == point["after"]["bytes"] && said.out.contains(name), "{}", said.out);
    }
    assert!(points[2]["reason"].as_str().unwrap().contains("out of reach") && points[2]["hash"].is_null());
    assert!(said.out.contains("no model for macs-0.001"), "{}", said.out);
    // Nothing is smaller than the smallest.
    assert_eq!((&report["quality"], &points[1]["on_front"]), (&"top-1 agreement".into(), &true.into()));
    let page = std::fs::read_to_string(folder.at("sizes/sweep.html")).unwrap();
    assert!(page.contains("What is lost (top-1 agreement)") && page.contains("paredown sweep"), "{page}");
}

/// A point of a sweep is the same model as a job of its own gives.
#[test]
fn a_point_is_what_a_job_of_its_own_gives() {
    let folder = Folder::new();
    sweep(&folder, "60,30%").exits(0);
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let mut alone = prune(&model, &PruneOptions::macs(0.3).align(1).data(fixture("calib.npz"))).unwrap();
    alone.save(folder.at("alone.onnx")).unwrap();
    let read = |name: &str| std::fs::read(folder.at(name)).unwrap();
    assert!(read("alone.onnx") == read("sizes/macs-30.onnx"));
}

#[test]
fn a_sweep_goes_on_where_it_ended_and_not_in_the_folder_of_another() {
    let folder = Folder::new();
    sweep(&folder, "60%").exits(0);
    let written = || std::fs::metadata(folder.at("sizes/macs-60.onnx")).unwrap().modified().unwrap();
    let first = written();
    sweep(&folder, "60,30%").exits(0);
    assert_eq!((written(), json(&folder.at("sizes/sweep.json"))["points"].as_array().unwrap().len()), (first, 2));
    // A damaged file is written again.
    std::fs::write(folder.at("sizes/macs-60.onnx"), "half").unwrap();
    sweep(&folder, "60%").exits(0);
    assert!(Model::load(folder.at("sizes/macs-60.onnx")).is_ok());
    // Other budgets are the same sweep, what they count is not.
    sweep(&folder, "30,60%").exits(0);
    let names: Vec<String> = json(&folder.at("sizes/sweep.json"))["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["name"].to_string())
        .collect();
    assert_eq!(names, ["\"macs-30\"", "\"macs-60\""]);
    let other = Run::new("sweep").arg(fixture("digits_mlp.onnx")).arg("-o").arg(folder.at("sizes"));
    other.args("--align 1 --params 60% --data").arg(fixture("calib.npz")).exits(3).complains(&["another sweep"]);
    sweep(&folder, "60%").args("--seed 7").exits(3).complains(&["sweep.json", "another sweep"]);
    sweep(&folder, "60,x%").exits(2).complains(&["'x%' is not a share"]);
}

/// Statistics of an earlier job are taken up, and change nothing.
#[test]
fn a_sweep_keeps_statistics_for_later_jobs() {
    let folder = Folder::new();
    sweep(&folder, "60%").exits(0);
    let first = std::fs::read(folder.at("sizes/macs-60.onnx")).unwrap();
    let reused = |folder: &Folder| json(&folder.at("sizes/macs-60.json"))["calibration"]["reused"].as_u64();
    assert_eq!(reused(&folder), None);
    let again = Folder::new();
    for count in [false, true] {
        std::fs::remove_dir_all(again.at("sizes")).ok();
        sweep(&again, "60%").arg("--stats").arg(again.at("stats")).exits(0);
        assert_eq!(reused(&again).is_some_and(|found| found > 0), count);
        assert!(std::fs::read(again.at("sizes/macs-60.onnx")).unwrap() == first);
    }
}
