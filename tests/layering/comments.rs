//! Comments are as wide as the code around them lets a reader expect.

use std::fs;
use std::path::Path;

/// Columns of a line of comment.
const WIDTH_MAX: usize = 120;

#[test]
fn a_comment_is_not_wider_than_a_screen_of_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wide, mut directories) = (Vec::new(), vec![root.join("src")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let is_wide =
                |line: &&str| line.trim_start().starts_with("//") && line.chars().count() > WIDTH_MAX;
            let lines = text.lines().enumerate().filter(|(_, line)| is_wide(line)).map(|(at, _)| at + 1);
            wide.extend(lines.map(|line| format!("{name}:{line}")));
        }
    }
    assert!(wide.is_empty(), "comments of more than {WIDTH_MAX} columns:\n{}", wide.join("\n"));
}
