//! Files of statistics: what an earlier job found is taken up, and the result is the same.

use std::path::{Path, PathBuf};

use paredown::{
    Dataset, ErrorKind, FactorizeOptions, GatherOptions, Model, Outcome, PruneOptions, factorize, gather, merge_stats,
    prune,
};

use crate::command::{Folder, Run, fixture};

fn resnet() -> Model {
    Model::load(fixture("digits_resnet.onnx")).unwrap()
}

fn samples() -> Dataset {
    Dataset::synthetic(64)
}

fn to(share: f64) -> PruneOptions {
    PruneOptions::macs(share).data(samples())
}

fn reused(outcome: &Outcome) -> Option<usize> {
    outcome.report.calibration.as_ref().unwrap().reused
}

/// Another budget, another criterion, and a factorization: the same bytes with the file and without it.
#[test]
fn what_is_taken_up_changes_no_result() {
    let (model, folder) = (resnet(), Folder::new());
    let file = folder.at("stats");
    let first = prune(&model, &to(0.8).stats(&file)).unwrap();
    assert_eq!(reused(&first), Some(0));
    assert_eq!(first.model.proto, prune(&model, &to(0.8)).unwrap().model.proto);
    let groups = first.report.pricing[0].groups.len();
    for share in [0.8, 0.6] {
        let again = prune(&model, &to(share).stats(&file)).unwrap();
        assert!(reused(&again).unwrap() > groups, "{:?}", reused(&again));
        assert_eq!(again.model.proto, prune(&model, &to(share)).unwrap().model.proto);
    }
    let ratio = |options: PruneOptions| options.data(samples()).criterion("wanda");
    let other = prune(&model, &ratio(PruneOptions::ratio(0.5)).stats(&file)).unwrap();
    assert_eq!(other.model.proto, prune(&model, &ratio(PruneOptions::ratio(0.5))).unwrap().model.proto);
    let ranks = || FactorizeOptions::params(0.5).data(samples());
    let split = factorize(&model, &ranks().stats(&file)).unwrap();
    assert!(reused(&split).unwrap() > 0, "the sums that prices are fitted on are those of the splits");
    assert_eq!(split.model.proto, factorize(&model, &ranks()).unwrap().model.proto);
}

fn refusal(file: &Path, model: &Model, options: PruneOptions) -> String {
    let error = prune(model, &options.stats(file)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    error.to_string()
}

#[test]
fn a_file_of_something_else_is_refused_with_what_differs() {
    let folder = Folder::new();
    let file = folder.at("stats");
    prune(&resnet(), &to(0.8).stats(&file)).unwrap();
    let kept = std::fs::read(&file).unwrap();
    let other = Model::load(fixture("digits_mlp.onnx")).unwrap();
    assert!(refusal(&file, &other, to(0.8)).contains("gathered with model"));
    assert!(refusal(&file, &resnet(), to(0.8).data(Dataset::synthetic(56))).contains("gathered with samples"));
    assert!(refusal(&file, &resnet(), to(0.8).seed(1)).contains("gathered with seed 0, and this job has 1"));
    assert_eq!(std::fs::read(&file).unwrap(), kept);
    std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    assert!(refusal(&file, &resnet(), to(0.8)).contains("damaged"));
    std::fs::write(&file, "not statistics, but longer than any end of such a file would have to be, as it is").unwrap();
    assert!(refusal(&file, &resnet(), to(0.8)).contains("no file of statistics"));
    let error = prune(&resnet(), &PruneOptions::macs(0.8).stats(&file)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// Gathers one share of the digits for a network; returns the file.
fn gathered(folder: &Folder, model: &Model, (number, of): (usize, usize)) -> PathBuf {
    let file = folder.at(&format!("{number}-of-{of}"));
    let options = GatherOptions::new().share(number, of).data(samples()).stats(&file);
    assert!(gather(model, &options).unwrap() > 0);
    file
}

/// However many machines there were and in whatever order their files are merged: the same bytes as of one machine.
#[test]
fn sums_of_shares_are_those_of_one_machine() {
    for name in ["digits_resnet.onnx", "digits_vit.onnx"] {
        let (model, folder) = (Model::load(fixture(name)).unwrap(), Folder::new());
        let shares: Vec<PathBuf> = (1..=3).map(|number| gathered(&folder, &model, (number, 3))).collect();
        let files = ["all", "part", "rest", "backwards", "alone"].map(|name| folder.at(name));
        let [all, part, rest, backwards, alone] = &files;
        gather(&model, &GatherOptions::new().data(samples()).stats(alone)).unwrap();
        assert!(merge_stats(&shares, all).unwrap().missing.is_empty());
        assert_eq!(merge_stats(&shares[..2], part).unwrap().missing, [6, 7, 8]);
        assert!(merge_stats(&[part, &shares[2]], rest).unwrap().missing.is_empty());
        assert!(merge_stats(&[&shares[2], &shares[1], &shares[0]], backwards).unwrap().missing.is_empty());
        let bytes = std::fs::read(all).unwrap();
        for other in [rest, backwards, alone] {
            assert!(std::fs::read(other).unwrap() == bytes, "{name}: {}", other.display());
        }
        let ratio = || PruneOptions::ratio(0.5).data(samples());
        let pruned = prune(&model, &ratio().stats(all)).unwrap();
        assert!(reused(&pruned).unwrap() > 3, "{name}");
        assert_eq!(pruned.model.proto, prune(&model, &ratio()).unwrap().model.proto, "{name}");
    }
}

#[test]
fn shares_that_do_not_make_a_whole_are_refused() {
    let (model, folder) = (resnet(), Folder::new());
    let half = gathered(&folder, &model, (1, 2));
    assert!(refusal(&half, &model, to(0.8)).contains("merge it with the others first"));
    let other = folder.at("other");
    let options = GatherOptions::new().share(2, 2).data(Dataset::synthetic(56)).stats(&other);
    gather(&model, &options).unwrap();
    let error = merge_stats(&[&half, &other], folder.at("both")).unwrap_err();
    assert!(error.to_string().contains("gathered with samples"), "{error}");
    assert!(!folder.at("both").exists());
    let wrong = gather(&model, &GatherOptions::new().share(3, 2).data(Dataset::synthetic(56)).stats(folder.at("new")));
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(merge_stats(&[&half], folder.at("one")).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn the_commands_say_what_they_kept() {
    let folder = Folder::new();
    let share = |number: usize| {
        let args = format!("--share {number}/2 --stats {}", folder.at(&number.to_string()).display());
        Run::new("gather").arg(fixture("digits_mlp.onnx")).args("--data synthetic").args(&args)
    };
    assert!(share(1).exits(0).out.contains("results of share 1/2 kept in"));
    share(2).exits(0);
    let merge = |files: &[&str]| files.iter().fold(Run::new("merge-stats"), |run, file| run.arg(folder.at(file)));
    let whole = folder.at("whole");
    assert!(merge(&["1", "2"]).arg("-o").arg(&whole).exits(0).out.contains("results kept in"));
    Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx"))
        .args("--ratio 0.5 --data synthetic --stats")
        .arg(&whole)
        .exits(0);
    share(1).exits(3).complains(&["a file of its own"]);
    merge(&["1", "2"]).arg("-o").arg(folder.at("1")).exits(2);
}
