//! The examples of ARCHITECTURE.md are rules that are compiled.

use std::path::Path;

/// Every block of Rust in ARCHITECTURE.md stands in `src/ops` as it is.
#[test]
fn the_documented_rules_compile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut sources = String::new();
    let mut files: Vec<_> = std::fs::read_dir(root.join("src/ops")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().for_each(|file| sources.push_str(&std::fs::read_to_string(file).unwrap()));
    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap().trim()).collect();
    assert!(blocks.len() >= 2, "{blocks:?}");
    for block in blocks {
        assert!(sources.contains(block), "not in src/ops:\n{block}");
    }
}
