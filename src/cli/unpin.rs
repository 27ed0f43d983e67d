//! `larder unpin IMAGE`: ends the pins of an image, so that it may be evicted.

use super::context::Context;
use super::failure::Failure;
use super::image_command::ImageArguments;
use crate::admin::control::Unpin;

pub(super) fn run(arguments: &ImageArguments, context: &Context) -> Result<(), Failure> {
    arguments.run(
        context,
        |image| Unpin { image },
        |image, done| {
            if done.unpinned == 0 {
                return Err(Failure::failed(format!("{image} is not pinned")));
            }
            Ok(format!("{image} is not pinned any more and may be evicted"))
        },
    )
}
