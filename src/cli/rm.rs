//! `larder rm IMAGE`: removes an image, its pin, and the blobs that no other image needs.

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::print_json;
use super::run_async::ask_daemon;
use crate::admin::control::Remove;
use crate::reference::Image;
use crate::support::size;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An image name as in a pod: registry.corp/team/app:v1
    image: Image,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let image = arguments.image.to_string();
    let removed = ask_daemon(&context.settings()?, &Remove { image: image.clone() })?;
    if arguments.json {
        print_json(&removed)?;
    }
    if removed.tags + removed.pins + removed.blobs == 0 {
        return Err(Failure::failed(format!("{image} is not in the store")));
    }
    if arguments.json {
        return Ok(());
    }
    println!("{image} removed: {} blobs, {}", removed.blobs, size::shown(removed.bytes));
    Ok(())
}
