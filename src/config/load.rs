//! Finding the configuration's files.
//!
//! `--config FILE`, else `$LARDER_CONFIG`, else `/etc/larder/larder.toml` if it is there; after it every `*.toml` in
//! the directory beside it that has its name with `.d` (`larder.toml.d`), in the order of their names; after those the
//! environment. A later one stands in place of an earlier one, key by key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::report::Mistake;
use super::resolve::{Layer, Rejected, resolve_layers};
use super::settings::Settings;
use crate::support::open_file::{self, FILE_BYTES_MAX};

/// Where a file is looked for when neither `--config` nor `LARDER_CONFIG` names one.
const DEFAULT_PATH: &str = "/etc/larder/larder.toml";
/// Files in the directory beside it at most.
const FILES_MAX: usize = 256;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is there, or was asked for, cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file, or the directory beside it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has mistakes.
    #[error("{} has {} mistake(s):{}", rest.from, mistakes.len(), shown(mistakes))]
    Mistaken {
        /// All of them.
        mistakes: Vec<Mistake>,
        /// What the keys without a mistake come to, with the defaults of all others: nothing to run a daemon with, but
        /// it says where one that runs meanwhile listens for commands, and which files are named.
        rest: Box<Loaded>,
    },
}

/// Settings, and what they were read from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What they were read from, for people.
    pub from: String,
    /// The files among that.
    pub files: Vec<PathBuf>,
}

/// Finds and reads the configuration: `asked`, else what the environment names, else the default file if it is there,
/// else the defaults. Files that keys name are read by those who use them. Blocks for a moment.
///
/// # Errors
/// A named file that cannot be read; any mistake.
pub fn load(asked: Option<&Path>, environment: &Environment) -> Result<Loaded, Error> {
    let layers = layers(asked.or(environment.config.as_deref()))?;
    let from = described(&layers, environment);
    let resolved = resolve_layers(&layers, environment);
    let files = layers.into_iter().map(|layer| PathBuf::from(layer.name)).collect();
    match resolved {
        Ok(settings) => Ok(Loaded { settings, from, files }),
        Err(Rejected { mistakes, rest }) => {
            let rest = Box::new(Loaded { settings: *rest, from, files });
            Err(Error::Mistaken { mistakes, rest })
        }
    }
}

fn layers(named: Option<&Path>) -> Result<Vec<Layer>, Error> {
    let path = named.unwrap_or(Path::new(DEFAULT_PATH));
    let mut all = match layer(path) {
        Ok(layer) => vec![layer],
        Err(Error::Unreadable { source, .. })
            if named.is_none() && source.kind() == io::ErrorKind::NotFound =>
        {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    for path in beside(path)? {
        all.push(layer(&path)?);
    }
    Ok(all)
}

/// The files in the directory beside `path`.
fn beside(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".d");
    let directory = PathBuf::from(name);
    let unreadable = |source| Error::Unreadable { path: directory.clone(), source };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        // What is no directory is none of ours: `/dev/stdin.d`.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|end| end == "toml") {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(unreadable(io::Error::other(format!("more than {FILES_MAX} files"))));
        }
    }
    files.sort();
    Ok(files)
}

fn layer(path: &Path) -> Result<Layer, Error> {
    // A pipe is read too: `--config /dev/stdin`.
    let read = || open_file::text(open_file::read_at_most(fs::File::open(path)?, FILE_BYTES_MAX)?);
    let text = read().map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    Ok(Layer { name: path.display().to_string(), text })
}

fn described(layers: &[Layer], environment: &Environment) -> String {
    let files = layers.iter().map(|layer| layer.name.clone());
    let variables = environment.overrides.keys().map(|name| format!("${name}"));
    let all: Vec<String> = files.chain(variables).collect();
    if all.is_empty() { "built-in defaults".to_owned() } else { all.join(", ") }
}

fn shown(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}
