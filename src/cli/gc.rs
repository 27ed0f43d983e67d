//! `larder gc`: evicts blobs now, as far as the configured limits require it.

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{print_json, print_line};
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

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let done = ask_daemon(&context.daemon_socket()?, &CollectGarbage {})?;
    if arguments.json {
        return print_json(&done);
    }
    print_line(&format!("{} freed", size::shown(done.freed_bytes)))
}
