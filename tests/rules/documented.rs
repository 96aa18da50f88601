//! The examples of ARCHITECTURE.md and CONTRIBUTING.md are rules that are compiled.

use std::path::Path;

/// Every block of Rust in both pages stands in `src/ops` as it is.
#[test]
fn the_documented_rules_compile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["ARCHITECTURE.md", "CONTRIBUTING.md"].map(|page| std::fs::read_to_string(root.join(page)).unwrap());
    let mut sources = String::new();
    let mut files: Vec<_> = std::fs::read_dir(root.join("src/ops")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().for_each(|file| sources.push_str(&std::fs::read_to_string(file).unwrap()));
    let of_page = |page: &'_ String| -> Vec<String> {
        page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap().trim().to_owned()).collect()
    };
    let blocks: Vec<String> = pages.iter().flat_map(of_page).collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        assert!(sources.contains(&block), "not in src/ops:\n{block}");
    }
}
