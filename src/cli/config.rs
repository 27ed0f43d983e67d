//! `larder config check|print`.

use clap::Subcommand;

use super::context::Context;
use super::failure::Failure;
use crate::config::{self, Loaded, Mistake};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
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
pub(super) fn run(command: &ConfigCommand, context: &Context) -> Result<(), Failure> {
    let loaded = config::load(context.file.as_deref(), &context.environment);
    if let (ConfigCommand::Check { json: true }, Err(config::Error::Mistaken { mistakes, .. })) =
        (command, &loaded)
    {
        let list: Vec<_> = mistakes.iter().map(json_of).collect();
        println!("{}", serde_json::json!({"ok": false, "mistakes": list}));
    }
    let Loaded { settings, from } = loaded.map_err(Failure::usage)?;
    match command {
        ConfigCommand::Check { json: true } => {
            println!("{}", serde_json::json!({"ok": true, "mistakes": []}))
        }
        ConfigCommand::Check { json: false } => println!("ok: {from}"),
        ConfigCommand::Print => print!("# in effect, from {from}\n{}", config::print_with_sources(&settings)),
    }
    Ok(())
}

fn json_of(mistake: &Mistake) -> serde_json::Value {
    let Mistake { key, problem, source } = mistake;
    let source = source.as_ref().map(ToString::to_string);
    serde_json::json!({"key": key, "problem": problem, "source": source})
}
