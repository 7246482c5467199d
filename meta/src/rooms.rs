//! Reads the sources as docs/ARCHITECTURE.md describes them: no circle of folders, what its "never" column says about
//! imports, and a row for every folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod source;

use source::paths;

/// Sources by their place in the repository, as `meta/src/state/mod.rs`.
type Sources = BTreeMap<String, String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(root: &Path, dir: &str, sources: &mut Sources) {
    for entry in std::fs::read_dir(root.join(dir)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{dir}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read(root, &name, sources);
        } else if name.ends_with(".rs") {
            sources.insert(name, std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// The sources of every crate.
fn workspace() -> Sources {
    let root = root();
    let mut sources = Sources::new();
    for entry in std::fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if root.join(&name).join("Cargo.toml").exists() && root.join(&name).join("src").exists() {
            read(&root, &format!("{name}/src"), &mut sources);
        }
    }
    sources
}

/// The module of a file of a crate: `meta/src/state/mod.rs` is `crate::state`.
fn module_of(file: &str) -> Vec<String> {
    let (_, within) = file.split_once("/src/").unwrap();
    let stem = within.strip_suffix(".rs").unwrap();
    let stem = stem.strip_suffix("mod").map_or(stem, |folder| folder.trim_end_matches('/'));
    let parts = stem.split('/').filter(|part| !part.is_empty() && !["lib", "main"].contains(part));
    std::iter::once("crate").chain(parts).map(str::to_owned).collect()
}

/// Whether a file is only built for tests: those may look at everything.
fn tests_only(sources: &Sources, file: &str) -> bool {
    let Some((folder, name)) = file.rsplit_once('/') else { return false };
    let declared = format!("#[cfg(test)]\nmod {};", name.trim_end_matches(".rs"));
    let parents = [format!("{folder}/mod.rs"), format!("{folder}/lib.rs"), format!("{folder}.rs")];
    parents.iter().filter_map(|parent| sources.get(parent)).any(|source| source.contains(&declared))
}

/// Which child of the folder `folder` names which other, each with a file that does. In a crate's root files count as
/// children, deeper only folders do: a folder's own files are the folder.
fn imports(sources: &Sources, folder: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let prefix = format!("{folder}/");
    let crate_root = folder.ends_with("/src");
    let child_of = |file: &str| -> Option<String> {
        let (child, rest) =
            file.strip_prefix(&prefix)?.split_once('/').map_or((file.strip_prefix(&prefix)?, ""), |parts| parts);
        if !rest.is_empty() {
            return Some(child.to_owned());
        }
        let name = child.strip_suffix(".rs")?;
        (crate_root && !["lib", "main"].contains(&name)).then(|| name.to_owned())
    };
    let children: BTreeSet<String> = sources.keys().filter_map(|file| child_of(file)).collect();
    let own = match crate_root {
        true => vec!["crate".to_owned()],
        false => module_of(&format!("{folder}/mod.rs")),
    };
    let mut imports: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (file, source) in sources.iter().filter(|(file, _)| !tests_only(sources, file)) {
        let Some(child) = child_of(file) else { continue };
        for path in paths(&module_of(file), source) {
            let named = path.strip_prefix(own.as_slice()).and_then(|rest| rest.first());
            if let Some(named) = named.filter(|named| **named != child && children.contains(*named)) {
                imports.entry(child.clone()).or_default().entry(named.clone()).or_insert_with(|| file.clone());
            }
        }
    }
    imports
}

/// A circle, if there is one: each names the next, and the last the first.
fn circle(imports: &BTreeMap<String, BTreeMap<String, String>>) -> Option<Vec<String>> {
    fn walk(
        imports: &BTreeMap<String, BTreeMap<String, String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        let here = way[way.len() - 1].clone();
        for next in imports.get(&here).into_iter().flat_map(BTreeMap::keys) {
            if let Some(at) = way.iter().position(|passed| passed == next) {
                way.drain(..at);
                return true;
            }
            if done.contains(next) {
                continue;
            }
            way.push(next.clone());
            if walk(imports, way, done) {
                return true;
            }
        }
        way.pop();
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        (!done.contains(start) && walk(imports, &mut way, &mut done)).then_some(way)
    })
}

/// Circles between the folders of every level below `folder`, told with the files that close them.
fn circles(sources: &Sources, folder: &str) -> Vec<String> {
    let mut folders: BTreeSet<&str> = BTreeSet::new();
    for file in sources.keys().filter(|file| file.starts_with(&format!("{folder}/"))) {
        let mut at = file.as_str();
        while let Some((parent, _)) = at.rsplit_once('/') {
            at = parent;
            folders.insert(at);
            if at == folder {
                break;
            }
        }
    }
    let told = |folder| {
        let imports = imports(sources, folder);
        let way = circle(&imports)?;
        let steps = way.iter().zip(way.iter().cycle().skip(1));
        let steps: Vec<_> = steps.map(|(from, to)| format!("{from} names {to} in {}", imports[from][to])).collect();
        Some(format!("{folder}: {}", steps.join("; ")))
    };
    folders.into_iter().filter_map(told).collect()
}

/// What the sources under a folder never import, but in one file.
#[derive(Debug, PartialEq, Eq)]
struct Never {
    folder: String,
    names: Vec<String>,
    outside: Option<String>,
}

/// The rows of the code map: the folders that it names, and its rules about imports: "imports `a`, `b` outside `c.rs`".
fn code_map(document: &str) -> (BTreeSet<String>, Vec<Never>) {
    let (mut folders, mut rules) = (BTreeSet::new(), Vec::new());
    let map = document.split("## Code map").last().unwrap_or_default();
    for row in map.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (named, never) = (quoted(cells[1]), cells[3]);
        let named: Vec<&str> = named.into_iter().map(|folder| folder.trim_end_matches('/')).collect();
        let first = named[0].to_owned();
        // Others are whole paths too, or within the first.
        let whole =
            |folder: &&str| if folder.contains("/src/") { (*folder).to_owned() } else { format!("{first}/{folder}") };
        folders.extend(named[1..].iter().map(whole));
        for rule in never.split("imports ").skip(1) {
            let rule = rule.split(';').next().unwrap();
            let (names, outside) =
                rule.split_once(" outside ").map_or((rule, None), |(names, file)| (names, Some(file)));
            let outside = outside.and_then(|file| quoted(file).first().map(|file| format!("{first}/{file}")));
            let names = quoted(names).into_iter().map(str::to_owned).collect();
            rules.push(Never { folder: first.clone(), names, outside });
        }
        folders.insert(first);
    }
    (folders, rules)
}

fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Imports that break a rule.
fn broken(sources: &Sources, rule: &Never) -> Vec<String> {
    let within =
        |file: &&String| file.starts_with(&format!("{}/", rule.folder)) && Some(*file) != rule.outside.as_ref();
    let mut broken = Vec::new();
    for file in sources.keys().filter(within) {
        for path in paths(&module_of(file), &sources[file]) {
            let path = path.join("::");
            let hit = rule.names.iter().find(|name| path == **name || path.starts_with(&format!("{name}::")));
            broken.extend(hit.map(|name| {
                format!("{file} names {path}; docs/ARCHITECTURE.md: {} never imports {name}", rule.folder)
            }));
        }
    }
    broken
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap()
}

#[test]
fn no_folder_stands_in_a_circle() {
    let sources = workspace();
    for folder in ["meta/src", "node/src"] {
        assert!(!imports(&sources, folder).is_empty());
        assert_eq!(circles(&sources, folder), [""; 0]);
    }
}

#[test]
fn what_a_folder_never_imports_it_does_not() {
    let (sources, (_, rules)) = (workspace(), code_map(&document()));
    assert!(rules.len() > 9, "the column is read: {rules:?}");
    let broken: Vec<_> = rules.iter().flat_map(|rule| broken(&sources, rule)).collect();
    assert_eq!(broken, [""; 0]);
    // A rule about a name that nobody could import says nothing.
    for rule in rules.iter().filter(|rule| rule.outside.is_some()) {
        let everywhere = Never { folder: rule.folder.clone(), names: rule.names.clone(), outside: None };
        assert!(!self::broken(&sources, &everywhere).is_empty(), "{rule:?}");
    }
}

#[test]
fn every_folder_has_its_row_in_the_code_map() {
    let (rows, _) = code_map(&document());
    let sources = workspace();
    let folders: BTreeSet<String> = sources.keys().map(|file| file.rsplit_once('/').unwrap().0.to_owned()).collect();
    let with_root = |folder: &String| folder.trim_end_matches("/src").to_owned();
    let missing: Vec<_> = folders
        .iter()
        .filter(|folder| !folder.ends_with("/tests") && !rows.contains(*folder) && !rows.contains(&with_root(folder)))
        .collect();
    assert_eq!(missing, [""; 0], "folders without a row in docs/ARCHITECTURE.md");
    let gone: Vec<_> = rows.iter().filter(|row| !root().join(row).is_dir()).collect();
    assert_eq!(gone, [""; 0], "rows of docs/ARCHITECTURE.md without a folder");
}

fn planted(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(file, source)| (format!("x/src/{file}"), (*source).to_owned())).collect()
}

#[test]
fn a_planted_circle_is_found() {
    let straight = [("a/mod.rs", "use crate::{c::C, d};"), ("b.rs", "use crate::a::A;"), ("c/deep/e.rs", "fn f() {}")];
    assert_eq!(circles(&planted(&straight), "x/src"), [""; 0]);
    let closed =
        [("a/mod.rs", "use crate::c::C;"), ("b.rs", "use super::a::A;"), ("c/deep/e.rs", "fn f() { crate::b::g() }")];
    let told = "x/src: a names c in x/src/a/mod.rs; c names b in x/src/c/deep/e.rs; b names a in x/src/b.rs";
    assert_eq!(circles(&planted(&closed), "x/src"), [told]);
    let deep = [("a/p/mod.rs", "use super::q::Q;"), ("a/q/x.rs", "mod t { use super::super::super::p::P; }")];
    let told = "x/src/a: p names q in x/src/a/p/mod.rs; q names p in x/src/a/q/x.rs";
    assert_eq!(circles(&planted(&deep), "x/src"), [told]);
}

#[test]
fn a_planted_import_is_found() {
    let document = "| `x/src/` (`a/`) | holds | imports `sled`, `std::time` outside `a/b.rs`; decides |";
    let (folders, rules) = code_map(document);
    assert_eq!(folders, BTreeSet::from(["x/src".to_owned(), "x/src/a".to_owned()]));
    let source = "use std::{fs, time::{Duration, Instant}};";
    assert_eq!(broken(&planted(&[("a/b.rs", source)]), &rules[0]), [""; 0]);
    let found = broken(&planted(&[("a/c.rs", source), ("a/d.rs", "use std::timer;")]), &rules[0]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("x/src/a/c.rs names std::time::Duration;"), "{found:?}");
}
