//! The documents that name files of the tree name files that exist.

use std::fs;
use std::path::Path;

/// Those that this is held for.
const DOCUMENTS: &[&str] = &["CONTRIBUTING.md"];
/// How a path begins that is looked for; `target/` is there only after a build.
const OF_THE_TREE: &[&str] = &["src/", "tests/", "docs/", "config/", "fuzz/", ".github/"];

#[test]
fn a_document_does_not_send_its_reader_to_files_that_are_gone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let named: Vec<&str> = text.split('`').filter(|word| is_path(word)).collect();
        let gone: Vec<&&str> = named.iter().filter(|path| !root.join(path).exists()).collect();
        assert!(named.len() > 10, "no paths were found in {document}: {named:?}");
        assert!(gone.is_empty(), "{document} names what does not exist: {gone:?}");
    }
}

fn is_path(word: &str) -> bool {
    let below = OF_THE_TREE.iter().any(|directory| word.starts_with(directory));
    let at_the_top = !word.contains('/') && [".toml", ".md"].iter().any(|ending| word.ends_with(ending));
    !word.contains(char::is_whitespace) && (below || at_the_top)
}
