//! The documents that name files of the tree name files that exist.

use std::fs;
use std::path::Path;

/// Those that this is held for.
const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md"];
/// How a path begins that is looked for; `target/` is there only after a build.
const OF_THE_TREE: &[&str] = &["src/", "tests/", "docs/", "config/", "fuzz/", ".github/"];

#[test]
fn a_document_does_not_send_its_reader_to_files_that_are_gone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let named: Vec<&str> = text.split('`').filter(|word| is_path(word)).collect();
        // The map of the code names its files from `src/` on.
        let is_there = |path: &str| root.join(path).exists() || root.join("src").join(path).exists();
        let gone: Vec<&&str> = named.iter().filter(|path| !is_there(path)).collect();
        assert!(named.len() > 10, "no paths were found in {document}: {named:?}");
        assert!(gone.is_empty(), "{document} names what does not exist: {gone:?}");
    }
}

fn is_path(word: &str) -> bool {
    let below = OF_THE_TREE.iter().any(|directory| word.starts_with(directory));
    let at_the_top = !word.contains('/') && [".toml", ".md"].iter().any(|ending| word.ends_with(ending));
    let of_the_code = word.contains('/') && word.ends_with(".rs");
    !word.contains(char::is_whitespace) && (below || at_the_top || of_the_code)
}
