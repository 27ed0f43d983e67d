//! The mutations of the simulated world (`make mutants-sim`) change code that is there.

use std::fs;
use std::path::Path;

#[test]
fn no_mutation_is_of_code_that_is_gone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/sim/mutations.txt")).unwrap();
    let (mut gone, mut found) = (Vec::new(), 0);
    for mutation in text.split("\n\n") {
        let value = |key: &str| {
            let key = format!("{key}: ");
            mutation.lines().find_map(|line| line.strip_prefix(key.as_str())).map(str::to_owned)
        };
        let (Some(name), Some(file), Some(find)) = (value("name"), value("file"), value("find")) else {
            continue;
        };
        found += 1;
        let code = fs::read_to_string(root.join(&file)).unwrap_or_default();
        if code.matches(&find.replace("\\n", "\n")).count() != 1 {
            gone.push(format!("{name}: {file} does not have this once: {find:?}"));
        }
    }
    assert!(found > 20, "{found} mutations were found");
    assert!(gone.is_empty(), "tests/sim/mutations.txt does not follow the code:\n{}", gone.join("\n"));
}
