//! `larder rm IMAGE`: removes an image, its pin, and the blobs that no other image needs.

use super::context::Context;
use super::failure::Failure;
use super::image_command::ImageArguments;
use crate::admin::control::Remove;
use crate::support::size;

pub(super) fn run(arguments: &ImageArguments, context: &Context) -> Result<(), Failure> {
    arguments.run(
        context,
        |image| Remove { image },
        |image, removed| {
            if removed.tags + removed.pins + removed.blobs == 0 {
                return Err(Failure::failed(format!("{image} is not in the store")));
            }
            Ok(format!("{image} removed: {} blobs, {}", removed.blobs, size::shown(removed.bytes)))
        },
    )
}
