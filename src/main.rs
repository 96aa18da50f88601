use paredown::analysis::Analysis;
use paredown::axes::{Selection, Role};
use paredown::plan::*;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let ratio: f64 = std::env::args().nth(2).unwrap_or("0.5".into()).parse().unwrap();
    let out = std::env::args().nth(3);
    let t = std::time::Instant::now();
    let model = paredown::onnx::Model::load(path.as_ref()).unwrap();
    eprintln!("load {:?}", t.elapsed());
    let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
    eprintln!("analysis {:?} sizes {:?}", t.elapsed(), analysis.facts.sizes);
    for (n, why) in analysis.facts.gaps.iter().take(10) { eprintln!("GAP {} {}: {}", analysis.graph.node(*n).op, analysis.graph.node(*n).name, why); }
    for (n, why) in analysis.network.refusals.iter().take(10) { eprintln!("REFUSED {} {}: {}", analysis.graph.node(*n).op, analysis.graph.node(*n).name, why); }
    let s = analysis.subject();
    let cost = CostModel::new(s);
    let allow = std::env::var("SHIFTS").is_ok();
    let filter = Filter::new(&[], &[], Units::Heads, allow).unwrap();
    let groups = groups(s, &cost, &filter);
    for g in &groups {
        let role = match &g.role { Role::Free => "free".to_string(), r => format!("{} {}", r.name(), r.reason().unwrap()) };
        if std::env::var("V").is_ok() { println!("{:60} {:5} {} members {} params {} | {} | {:?}", g.name, g.size, g.kind.name(), g.members.len(), g.controls.params, role, g.excluded); }
    }
    let open: Vec<&Group> = groups.iter().filter(|g| g.is_open(allow)).collect();
    let scored = paredown::score::Criterion::by_name("l2").unwrap().score(s, &open, 0).unwrap();
    eprintln!("score {:?}", t.elapsed());
    let selection = select(&scored, &cost, &Request { quota: Quota::Ratio(ratio), scope: Scope::Layer, min_keep: 1, align: 1 }).unwrap();
    println!("{path}: {:?} -> {:?} ({} groups open of {})", cost.cost(&Selection::all()), cost.cost(&selection), open.len(), groups.len());
    let pruned = paredown::rewrite::prune(s, &selection).unwrap();
    eprintln!("rewrite {:?}", t.elapsed());
    if let Some(out) = out {
        use prost::Message;
        std::fs::write(format!("{out}.onnx"), pruned.encode_to_vec()).unwrap();
        std::fs::write(format!("{out}.masked.onnx"), paredown::rewrite::masked(s, &selection).unwrap().encode_to_vec()).unwrap();
    }
}
