//! The order of the house: modules use those above them in one list, and no files use each other in a circle.
//!
//! Reads the paths in `src`: `use` items and paths in the code, tests left out. A name that a file re-exports counts as an
//! arrow to the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules from the bottom up: each may use those before it.
const ORDER: &[&str] = &[
    "error",
    "progress",
    "defect",
    "texts",
    "command",
    "onnx",
    "metric",
    "axes",
    "linalg",
    "lowrank",
    "graph",
    "runtime",
    "latency",
    "facts",
    "ops",
    "normalize",
    "analysis",
    "plan",
    "rewrite",
    "times",
    "calibrate",
    "train",
    "score",
    "repair",
    "price",
    "factorize",
    "verify",
    "report",
    "jobs",
    "api",
    "cli",
];

/// Arrows against the order that there still are, from a module to one after it: none.
const AGAINST: &[(&str, &str)] = &[];

/// Circles that there still are, by their files: none.
const CIRCLES: &[&[&str]] = &[];

/// A file's path as modules.
type Module = Vec<String>;

struct File {
    module: Module,
    /// Absolute paths that its code mentions.
    mentions: BTreeSet<Module>,
    /// What its own names stand for elsewhere.
    exports: BTreeMap<String, Module>,
}

fn files() -> BTreeMap<Module, File> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = BTreeMap::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inner = path.strip_prefix(&source).unwrap().with_extension("");
            let mut module: Module = inner.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            module.pop_if(|last| last == "mod");
            let is_test = |part: &String| part.ends_with("tests") || part == "sample";
            if !module.iter().any(is_test) && !matches!(module[0].as_str(), "lib" | "main" | "internals") {
                texts.insert(module, code(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let modules: BTreeSet<Module> = texts.keys().cloned().collect();
    texts.into_iter().map(|(module, text)| (module.clone(), File::read(module, &text, &modules))).collect()
}

/// The code without comments, texts and tests.
fn code(text: &str) -> String {
    let mut lines = text.lines();
    let mut code = String::new();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // A single item, or the tests at the end of a file.
            let item = lines.by_ref().find(|line| !line.trim().starts_with('#')).unwrap_or_default();
            if item.ends_with(';') {
                continue;
            }
            break;
        }
        let mut is_text = false;
        let mut rest = line.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\\' if is_text => drop(rest.next()),
                '"' => is_text = !is_text,
                '/' if !is_text && rest.peek() == Some(&'/') => break,
                _ if !is_text => code.push(c),
                _ => {}
            }
        }
        code.push('\n');
    }
    // Who may see an item is no use of it.
    while let Some(start) = code.find("(in crate::") {
        let end = code[start..].find(')').unwrap();
        code.replace_range(start..=start + end, "");
    }
    code
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expanded(tree: &str) -> Vec<String> {
    let Some((stem, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        return if path.is_empty() { Vec::new() } else { vec![path.to_owned()] };
    };
    let inner = &rest[..rest.rfind('}').unwrap()];
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths.extend(expanded(&inner[start..at]).into_iter().map(|path| format!("{}{path}", stem.trim())));
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

impl File {
    fn read(module: Module, text: &str, modules: &BTreeSet<Module>) -> Self {
        let mut file = Self { module, mentions: BTreeSet::new(), exports: BTreeMap::new() };
        let mut plain = String::new();
        for item in text.split_inclusive(';') {
            let start = item.match_indices("use ").map(|(at, _)| at).find(|&at| {
                let before = &item[..at];
                before.trim_end().is_empty() || before.ends_with(['\n', ' ', ')', ';'])
            });
            let Some(start) = start.filter(|_| item.ends_with(';')) else {
                plain.push_str(item);
                continue;
            };
            let line = item[..start].rsplit('\n').next().unwrap_or_default();
            let is_export = line.trim_start().starts_with("pub");
            plain.push_str(&item[..start]);
            for path in expanded(item[start + 4..].trim_end_matches(';')) {
                let Some(path) = file.absolute(&path, modules) else { continue };
                if is_export {
                    file.exports.extend(path.last().cloned().map(|name| (name, path)));
                } else {
                    file.mentions.insert(path);
                }
            }
        }
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for path in plain.split(|c| !is_path(c)).filter(|word| word.contains("::")) {
            let path = path.trim_matches(':');
            file.mentions.extend(file.absolute(path, modules));
        }
        file
    }

    /// A path from the root of the crate; `None` if it leads elsewhere.
    fn absolute(&self, path: &str, modules: &BTreeSet<Module>) -> Option<Module> {
        let mut parts: Module = path.split("::").map(|part| part.trim().to_owned()).collect();
        let mut base = self.module.clone();
        match parts[0].as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => drop(base.pop()),
            first => {
                let mut child = base.clone();
                child.push(first.to_owned());
                return modules.contains(&child).then(|| [base, parts].concat());
            }
        }
        parts.remove(0);
        while parts.first().is_some_and(|part| part == "super") {
            base.pop();
            parts.remove(0);
        }
        base.extend(parts);
        Some(base)
    }
}

/// The file that a path leads to, re-exports followed.
fn target(files: &BTreeMap<Module, File>, path: &[String], depth: usize) -> Option<Module> {
    for length in (1..=path.len()).rev() {
        let Some(file) = files.get(&path[..length]) else { continue };
        let export = path.get(length).and_then(|name| file.exports.get(name)).filter(|_| depth < 8);
        return match export {
            Some(other) => target(files, &[other, &path[length + 1..]].concat(), depth + 1),
            None => Some(path[..length].to_vec()),
        };
    }
    None
}

/// Which file uses which others.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let files = files();
    let used = |file: &File| {
        let targets = file.mentions.iter().filter_map(|path| target(&files, path, 0));
        targets.filter(|other| *other != file.module).map(|other| other.join("::")).collect()
    };
    files.values().map(|file| (file.module.join("::"), used(file))).collect()
}

fn top(file: &str) -> &str {
    file.split("::").next().unwrap()
}

#[test]
fn arrows_follow_the_order() {
    let rank = |file: &str| ORDER.iter().position(|module| *module == top(file)).unwrap_or_else(|| panic!("{file}"));
    let arrows = arrows();
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 500, "the arrows were not found");
    let mut against = BTreeMap::new();
    for (file, used) in &arrows {
        for other in used.iter().filter(|other| rank(other) > rank(file)) {
            against.entry((top(file), top(other))).or_insert_with(Vec::new).push(format!("{file} uses {other}"));
        }
    }
    let known: BTreeSet<(&str, &str)> = AGAINST.iter().copied().collect();
    let new: Vec<_> = against.iter().filter(|(arrow, _)| !known.contains(*arrow)).collect();
    assert!(new.is_empty(), "arrows against the order: {new:#?}");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let arrows = arrows();
    let reached = |start: &String| {
        let (mut seen, mut pending) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(file) = pending.pop() {
            pending.extend(arrows[&file].iter().filter(|next| seen.insert((*next).clone())).cloned());
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = arrows.keys().map(|file| (file, reached(file))).collect();
    let circle = |file: &String| -> BTreeSet<&str> {
        reach[file].iter().filter(|other| reach[other].contains(file)).map(String::as_str).collect()
    };
    let found: BTreeSet<BTreeSet<&str>> = arrows.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    let known: BTreeSet<BTreeSet<&str>> = CIRCLES.iter().map(|circle| circle.iter().copied().collect()).collect();
    let inside = |circle: &BTreeSet<&str>| known.iter().any(|known| circle.is_subset(known));
    let new: Vec<_> = found.iter().filter(|circle| !inside(circle)).collect();
    assert!(new.is_empty(), "circles: {new:#?}");
}
