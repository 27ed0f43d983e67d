//! The documents that name files of the tree name files that exist.

use std::fs;
use std::path::{Path, PathBuf};

use crate::rows::MODULES;

/// Documents about the tree itself: what looks like a file at its top is one.
const ABOUT_THE_TREE: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md"];
/// How a path begins that is looked for; `target/` is there only after a build.
const OF_THE_TREE: &[&str] = &["src/", "tests/", "docs/", "config/", "fuzz/", ".github/"];
/// Where a path is looked for: the map of the code names its files from `src/` on, docs/testing.md those of the simulated
/// world from `tests/sim/` on.
const ROOTS: &[&str] = &["", "src", "tests/sim"];

#[test]
fn a_document_does_not_send_its_reader_to_files_that_are_gone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for document in documents(root) {
        let text = fs::read_to_string(root.join(&document)).unwrap();
        let is_about_the_tree = ABOUT_THE_TREE.iter().any(|name| document == Path::new(name));
        let named: Vec<&str> = text.split('`').filter(|word| is_path(word, is_about_the_tree)).collect();
        let gone: Vec<&&str> = named.iter().filter(|path| !is_there(root, path)).collect();
        assert!(!is_about_the_tree || named.len() > 10, "no paths were found in {document:?}: {named:?}");
        assert!(gone.is_empty(), "{document:?} names what does not exist: {gone:?}");
        found += named.len();
    }
    assert!(found > 100, "{found} paths were found");
}

fn documents(root: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(root.join("docs")).unwrap().flatten().map(|entry| entry.path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages = pages.map(|path| path.strip_prefix(root).unwrap().to_owned());
    ABOUT_THE_TREE.iter().map(PathBuf::from).chain(pages).collect()
}

fn is_path(word: &str, with_files_at_the_top: bool) -> bool {
    let below = OF_THE_TREE.iter().any(|directory| word.starts_with(directory));
    let at_the_top = with_files_at_the_top
        && !word.contains('/')
        && [".toml", ".md"].iter().any(|end| word.ends_with(end));
    let of_the_code = word.contains('/') && (word.ends_with(".rs") || is_of_a_module(word));
    !word.contains(|c: char| c.is_whitespace() || matches!(c, '*' | '<' | '…'))
        && (below || at_the_top || of_the_code)
}

/// Whether it is a path within a module of `src/`, without an ending: `pull/blob/fill`.
fn is_of_a_module(word: &str) -> bool {
    let first = word.split('/').next().unwrap_or_default();
    let is_name = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '/');
    MODULES.iter().flat_map(|row| row.iter()).any(|module| *module == first) && word.chars().all(is_name)
}

fn is_there(root: &Path, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ROOTS.iter().map(|base| root.join(base)).any(|base| {
        base.join(path).exists() || is_of_a_module(path) && base.join(format!("{path}.rs")).exists()
    })
}
