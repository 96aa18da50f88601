//! A budget is met from below and missed by little; one that cannot be met is said.

use paredown::{
    ErrorKind, InspectOptions, Model, ModelFigures, PruneOptions, Remaining, Report, Scope, inspect, prune,
};

use crate::command::{FIXTURES, Folder, Run, fixture, json};
use crate::mask::is_open;

type Figure = fn(&ModelFigures) -> u64;
type Budget = fn(Remaining) -> PruneOptions;

const FIGURES: [(&str, Figure, Budget); 3] = [
    ("--params", |figures| figures.params, PruneOptions::params),
    ("--macs", |figures| figures.macs, PruneOptions::macs),
    ("--size", |figures| figures.bytes, PruneOptions::size),
];

/// At most what one unit of any group can weigh.
fn one_unit(report: &Report, option: &str) -> u64 {
    let unit = |total: u64, size: usize| total.div_ceil(size as u64);
    let each = report.groups.iter().filter(|group| is_open(group)).map(|group| match option {
        "--params" => unit(group.params, group.size),
        "--macs" => unit(group.macs, group.size),
        _ => 4 * unit(group.params, group.size),
    });
    each.max().unwrap()
}

#[test]
fn the_result_is_at_or_below_the_target_and_near_it() {
    for name in FIXTURES {
        let model = Model::load(fixture(name)).unwrap();
        let original = inspect(&model, &InspectOptions::new()).unwrap();
        for (option, figure, budget) in FIGURES {
            let whole = figure(&original.model.before);
            for scope in [Scope::Global, Scope::Layer] {
                for (share, remaining) in [
                    (0.9, Remaining::Share(0.9)),
                    (0.7, Remaining::Absolute((whole as f64 * 0.7) as u64)),
                    (0.55, Remaining::Share(0.55)),
                ] {
                    let pruned = prune(&model, &budget(remaining).align(1).scope(scope)).unwrap();
                    let limit = (whole as f64 * share) as u64;
                    let found = figure(&pruned.report.model.after);
                    let case = format!("{name} {option} {share} {scope:?}: {found} of {limit}");
                    assert!(found <= limit, "{case}");
                    // Per layer all groups move together, so a step is one unit of each.
                    let units = if scope == Scope::Layer { pruned.plan.groups.len() as u64 } else { 1 };
                    let slack = (limit / 100).max(units * one_unit(&original, option));
                    assert!(limit - found <= slack, "{case}, slack {slack}");
                }
            }
        }
    }
}

/// Half of all heads and half of all neurons, wherever they are: heads do not compete with neurons.
#[test]
fn a_global_share_is_one_of_each_kind_of_unit() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    for ratio in [0.25, 0.5] {
        let pruned = prune(&model, &PruneOptions::ratio(ratio).align(1).scope(Scope::Global)).unwrap();
        for kind in ["heads", "neurons"] {
            let groups: Vec<_> =
                pruned.report.groups.iter().filter(|group| is_open(group) && group.axis == kind).collect();
            let size: usize = groups.iter().map(|group| group.size).sum();
            let kept: usize = groups.iter().map(|group| group.kept).sum();
            assert!(groups.len() == 2 && kept as f64 == size as f64 * (1.0 - ratio), "{kind}: {kept} of {size}");
        }
    }
}

/// What the report promises is what a fresh analysis of the written file finds, and the size of the file.
#[test]
fn figures_after_are_those_of_the_written_file() {
    let folder = Folder::new();
    for name in FIXTURES {
        for target in ["--params 60%", "--macs 45%", "--size 60%", "--size 200kB", "--params 45000"] {
            let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
            let prune = Run::prune(&fixture(name), &out).args("--force --no-verify --report").arg(&report);
            prune.args(target).exits(0);
            let after = &json(&report)["model"]["after"];
            let model = Model::load(&out).unwrap();
            let found = inspect(&model, &InspectOptions::new()).unwrap().model.before;
            let case = format!("{name} {target}");
            assert_eq!(after["params"], found.params, "{case}");
            assert_eq!(after["macs"], found.macs, "{case}");
            assert_eq!(after["nodes"], found.nodes, "{case}");
            assert_eq!(after["bytes"], std::fs::metadata(&out).unwrap().len(), "{case}");
            match target {
                "--size 200kB" => assert!(found.bytes <= 200_000, "{case}: {}", found.bytes),
                "--params 45000" => assert!(found.params <= 45_000, "{case}: {}", found.params),
                _ => {}
            }
        }
    }
}

/// The smallest reachable figure of the message is reachable, and one less is not.
#[test]
fn out_of_reach_exits_with_4_and_says_what_is_in_reach() {
    let folder = Folder::new();
    for (option, _, _) in FIGURES {
        for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
            let out = folder.at("out.onnx");
            let prune = |amount: &str| Run::prune(&fixture(name), &out).arg(option).arg(amount).arg("--no-verify");
            let said = prune("1").exits(4);
            assert!(said.err.contains("out of reach") && said.err.contains(name), "{}", said.err);
            assert!(folder.names().is_empty());
            let least = said.err.split("smallest reachable figure is ").nth(1).unwrap();
            let least: u64 = least.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
            prune(&(least - 1).to_string()).exits(4);
            prune(&least.to_string()).exits(0);
            std::fs::remove_file(&out).unwrap();
        }
    }
}

#[test]
fn a_target_that_is_met_already_is_nothing_to_do() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    for options in [PruneOptions::params(1.0), PruneOptions::macs(84_480_u64), PruneOptions::ratio(0.0)] {
        let error = prune(&model, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Nothing, "{error}");
    }
}

#[test]
fn kept_units_are_aligned_and_at_least_min_keep() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    for options in [PruneOptions::ratio(0.7), PruneOptions::macs(0.5), PruneOptions::params(0.5)] {
        let pruned = prune(&model, &options.align(4).min_keep(6)).unwrap();
        for group in pruned.report.groups.iter().filter(|group| is_open(group)) {
            assert!(group.kept % 4 == 0 && group.kept >= 8, "{}: {} of {}", group.name, group.kept, group.size);
        }
    }
}

#[test]
fn include_and_exclude_say_which_groups_lose() {
    let folder = Folder::new();
    let losers = |options: &str| -> Vec<String> {
        let plan = folder.at("plan.json");
        let prune = Run::new("prune").arg(fixture("digits_resnet.onnx")).args("--dry-run --no-verify --ratio 0.5");
        prune.args(options).arg("--plan-out").arg(&plan).exits(0);
        let groups = json(&plan)["groups"].as_array().unwrap().clone();
        groups.iter().map(|group| group["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(losers("--include stem/*"), ["stem/Conv channels"]);
    assert_eq!(losers("--include block2.bn1.weight"), ["block2/conv1/Conv channels"]);
    let rest = losers("--exclude stem/* --exclude block3*");
    assert_eq!(rest, ["block1/conv1/Conv channels", "block2/conv1/Conv channels"]);
    let model = fixture("digits_resnet.onnx");
    let none = Run::prune(&model, &folder.at("out.onnx")).args("--ratio 0.5 --include nothing").exits(4);
    assert!(none.err.contains("not matched by --include"), "{}", none.err);
}
