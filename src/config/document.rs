//! The configuration described: the commented file that is shipped, and the tables of `docs/configuration.md`.
//!
//! Both are made from the declarations of the keys, with the defaults that the daemon has as root. Tests hold the files
//! in the repository equal to what is made here.

use super::environment::Environment;
use super::file::{Tree, Value};
use super::report::Report;
use super::schema::{Key, Needs};
use super::section::{Block, Entries, Sections};

/// Characters of a line at most.
const WIDTH: usize = 120;

/// What the shipped file begins with.
const HEAD: &str = "\
# Larder's configuration. Every key is here. A line like `#key = value` is a setting with its default: switching it on
# changes nothing until you change the value. A line like `# key = value` is an example of a key that has no default.
# No file at all is fine too.
#
# Looked for: --config FILE, else $LARDER_CONFIG, else /etc/larder/larder.toml; then larder.toml.d/*.toml beside it, in
# the order of their names; then LARDER_SECTION_KEY in the environment. A later one stands in place of an earlier one,
# key by key. Check it with `larder config check`; `larder config print` shows what is in effect, and from where. Keys
# marked (restart) count from the next start, all others from `systemctl reload larder`.
";

/// What the shipped file ends with: what one key alone does not show.
const EXAMPLES: &str = include_str!("examples.toml");

/// `config/larder.toml`: every key, commented, equal to the built-in defaults.
pub fn template() -> String {
    let mut out = HEAD.to_owned();
    let mut lists = String::new();
    for block in blocks() {
        match &block.entries {
            Entries::One(defaults) => write_section(&mut out, &block, defaults),
            Entries::Many(_) => write_example(&mut lists, &block),
        }
    }
    out + "\n# -- examples: these have no defaults "
        + &"-".repeat(WIDTH - 36)
        + "\n"
        + &lists
        + "\n"
        + EXAMPLES
}

/// The tables of `docs/configuration.md`: every key with its type, default, sentence, and what a change of it needs.
pub fn reference() -> String {
    let mut out = String::new();
    for block in blocks() {
        let name = match block.entries {
            Entries::One(_) => format!("[{}]", block.name),
            Entries::Many(_) => format!("[[{}]]", block.name),
        };
        out += &format!("### `{name}`\n\n{}\n\n", cell(&block.about));
        out += "| Key | Type | Default | What it is for | Change |\n| --- | --- | --- | --- | --- |\n";
        let defaults = match block.entries {
            Entries::One(defaults) => defaults,
            Entries::Many(_) => vec![None; block.keys.len()],
        };
        for (key, default) in block.keys.iter().zip(defaults) {
            let default = default.map_or(String::new(), |value| format!("`{value}`"));
            let shape = cell(&key.shape.to_string());
            out +=
                &format!("| `{}` | {shape} | {default} | {} | {} |\n", key.name, cell(&key.what), needs(key));
        }
        out.push('\n');
    }
    out
}

fn blocks() -> Vec<Block> {
    let root = Environment { root: true, runtime_dir: Some("/run/larder".into()), ..Environment::default() };
    Sections::read(Tree::new(), &root, &Report::default()).blocks()
}

fn write_section(out: &mut String, block: &Block, defaults: &[Option<Value>]) {
    out.push('\n');
    comment(out, &block.about);
    *out += &format!("[{}]\n", block.name);
    for (key, default) in block.keys.iter().zip(defaults) {
        let mark = if key.needs == Needs::Restart { " (restart)" } else { "" };
        comment(out, &format!("{}{mark}", key.what));
        match default {
            Some(default) => *out += &format!("#{} = {default}\n", key.name),
            None => *out += &format!("# {} = {}\n", key.name, key.example.unwrap_or_default()),
        }
    }
}

fn write_example(out: &mut String, block: &Block) {
    out.push('\n');
    comment(out, &block.about);
    *out += &format!("#[[{}]]\n", block.name);
    for key in &block.keys {
        comment(out, &key.what);
        *out += &format!("#{} = {}\n", key.name, key.example.unwrap_or_default());
    }
}

/// Prose, in lines of a comment.
fn comment(out: &mut String, prose: &str) {
    let mut line = "#".to_owned();
    for word in prose.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            *out += &line;
            *out += "\n";
            line = "#".to_owned();
        }
        line.push(' ');
        line += word;
    }
    *out += &line;
    *out += "\n";
}

/// Prose in a cell of a table.
fn cell(prose: &str) -> String {
    prose.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

fn needs(key: &Key) -> &'static str {
    match key.needs {
        Needs::Reload => "reload",
        Needs::Restart => "restart",
    }
}
