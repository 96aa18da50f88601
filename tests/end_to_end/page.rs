//! The report as a page: whole, of one file, and safe from the texts of a model.

use paredown::internals::onnx::Model as File;
use paredown::{FactorizeOptions, Model, PruneOptions, SaveOptions, Training, TuneOptions, factorize, prune, tune};

use crate::command::{Folder, Run, fixture};

/// Tags that are opened and closed, in order; void elements do not count.
#[track_caller]
fn is_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let script = page.find("<script>").unwrap();
    for piece in page[..script].split('<').skip(1) {
        let tag = piece.split('>').next().unwrap();
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{tag}> closes something else");
        } else if !tag.ends_with('/') && !matches!(name, "meta" | "link" | "!DOCTYPE") {
            open.push(name);
        }
    }
    assert_eq!(open, ["html", "body"]);
}

/// Nothing is fetched from anywhere.
#[track_caller]
fn needs_no_network(page: &str) {
    for wanted in ["src=", "@import", "url(", "http:", "https:", "fetch(", "href=\"/"] {
        assert!(!page.contains(wanted), "{wanted}");
    }
}

#[test]
fn the_page_is_whole_and_needs_no_other_file() {
    let folder = Folder::new();
    let (out, page, plan) = (folder.at("out.onnx"), folder.at("report.html"), folder.at("plan.json"));
    let run = Run::prune(&fixture("digits_mlp.onnx"), &out).args("--macs 40% --align 1 --retrain 1 --plan-out");
    let run = run.arg(&plan).arg("--data").arg(fixture("calib.npz")).arg("--report").arg(&page);
    run.exits(0);
    let text = std::fs::read_to_string(&page).unwrap();
    is_well_formed(&text);
    needs_no_network(&text);
    for part in ["digits_mlp.onnx", "Width of every layer", "1/Gemm neurons", "Training", "Repair", "Top-1 agreement"] {
        assert!(text.contains(part), "{part}");
    }
    for command in ["paredown prune ", "paredown verify ", "--plan "] {
        assert!(text.contains(command), "{command}");
    }
    let again = folder.at("again.html");
    Run::new("verify")
        .arg(fixture("digits_mlp.onnx"))
        .arg(&out)
        .arg("--plan")
        .arg(&plan)
        .arg("--report")
        .arg(&again)
        .exits(0);
    is_well_formed(&std::fs::read_to_string(&again).unwrap());
}

#[test]
fn every_layer_is_in_the_picture_before_and_after() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    let pruned = prune(&model, &PruneOptions::ratio(0.5).align(1)).unwrap();
    let layer = |name: &str| pruned.report.network.iter().find(|layer| layer.name == name).unwrap();
    let stem = layer("/stem/Conv");
    assert_eq!((stem.before.width, stem.after.unwrap().width), (16, 8));
    let conv = layer("/block1/conv1/Conv");
    assert_eq!(conv.after.unwrap().params * 4, conv.before.params);
    let split = factorize(&model, &FactorizeOptions::params(0.6)).unwrap();
    let ranks: Vec<_> = split.report.network.iter().filter(|layer| layer.rank.is_some()).collect();
    assert!(!ranks.is_empty() && ranks.iter().all(|layer| layer.after.unwrap().params < layer.before.params));
    let small = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let training = TuneOptions::new(Training::epochs(1)).teacher(small.clone());
    let tuned = tune(&small, &training.data(fixture("calib.npz"))).unwrap();
    assert_eq!(tuned.report.network.len(), 3);
    assert!(tuned.report.network.iter().all(|layer| layer.after == Some(layer.before)));
    for report in [&split.report, &tuned.report] {
        is_well_formed(&report.to_html());
    }
}

#[test]
fn names_in_a_file_cannot_become_tags() {
    let folder = Folder::new();
    let mut model = File::load(fixture("digits_mlp.onnx")).unwrap();
    let evil = "<script>alert('1')</script>";
    for node in &mut model.proto.graph.as_mut().unwrap().node {
        node.name = Some(format!("{evil}{}", node.name()));
    }
    let path = folder.at("evil.onnx");
    model.save(&path, &SaveOptions::default()).unwrap();
    let pruned = prune(&Model::load(&path).unwrap(), &PruneOptions::ratio(0.5)).unwrap();
    let page = pruned.report.to_html();
    assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)") && !page.contains(evil));
    is_well_formed(&page);
}
