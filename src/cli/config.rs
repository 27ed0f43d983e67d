//! `larder config check|print`.

use std::path::Path;

use clap::Subcommand;

use super::Failure;
use crate::config::{self, Environment, Loaded, Mistake};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Report every mistake at once
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is in effect, as a configuration file
    Print,
}

#[allow(clippy::print_stdout, reason = "what these commands are for")]
pub(super) fn run(command: &Command, file: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    let loaded = config::load(file, environment);
    if let (Command::Check { json: true }, Err(config::Error::Mistaken { mistakes, .. })) = (command, &loaded)
    {
        let list: Vec<_> = mistakes.iter().map(json_of).collect();
        println!("{}", serde_json::json!({"ok": false, "mistakes": list}));
    }
    let Loaded { settings, from } = loaded.map_err(|error| Failure::Usage(error.to_string()))?;
    match command {
        Command::Check { json: true } => println!("{}", serde_json::json!({"ok": true, "mistakes": []})),
        Command::Check { json: false } => println!("ok: {from}"),
        Command::Print => print!("# in effect, from {from}\n{}", config::print_with_sources(&settings)),
    }
    Ok(())
}

fn json_of(mistake: &Mistake) -> serde_json::Value {
    let Mistake { key, problem, source } = mistake;
    let source = source.as_ref().map(ToString::to_string);
    serde_json::json!({"key": key, "problem": problem, "source": source})
}
