//! `larder gc`: evicts blobs now, as far as the configured limits require it.

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::print_json;
use super::run_async::ask_daemon;
use crate::admin::control::CollectGarbage;
use crate::support::size;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let done = ask_daemon(&context.settings()?, &CollectGarbage {})?;
    if arguments.json {
        return print_json(&done);
    }
    println!("{} freed", size::shown(done.freed_bytes));
    Ok(())
}
