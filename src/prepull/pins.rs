//! Which pins an image has while it is fetched and afterwards: pure.

use std::collections::HashSet;

use super::order::{PinOwner, RequestedImage};
use crate::reference::{Digest, Image};
use crate::store::Pin;

/// What is to be done to a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PinChange {
    /// Remove it.
    Remove(Pin),
    /// Write it.
    Write(Pin),
}

/// The pin of an image that has not arrived as a whole, so that what arrives of it stays. It has no owner until the
/// image is here, unless an earlier fetch of the same image gave it one.
pub(super) fn while_fetching(pins: Vec<Pin>, image: &Image, root: Digest, digests: Vec<Digest>) -> Pin {
    let before = pins.into_iter().find(|pin| is_of(pin, image) && pin.root == root);
    let mut digests = digests;
    let mut owner = None;
    if let Some(before) = before {
        // The image may have been pinned for another platform.
        let more: Vec<Digest> = before.digests.into_iter().filter(|old| !digests.contains(old)).collect();
        digests.extend(more);
        owner = before.owner;
    }
    Pin { repository: image.repository.clone(), reference: image.reference.to_string(), root, digests, owner }
}

/// Once an image has arrived, the pins of what its reference meant before end, and its own gets an owner; where it has
/// not, the pin without an owner ends that was made for it.
pub(super) fn afterwards(
    pins: &[Pin],
    image: &Image,
    arrived: Option<Digest>,
    owner: PinOwner,
) -> Vec<PinChange> {
    let of_image: Vec<&Pin> = pins.iter().filter(|pin| is_of(pin, image)).collect();
    let ends = |pin: &Pin| arrived.map_or(pin.owner.is_none(), |root| pin.root != root);
    let mut changes: Vec<PinChange> =
        of_image.iter().filter(|pin| ends(pin)).map(|pin| PinChange::Remove((*pin).clone())).collect();
    if let Some(here) = of_image.iter().find(|pin| arrived == Some(pin.root)) {
        // What a command pinned stays the command's, whatever the list names.
        let owned = here.owner.is_some() && owner == PinOwner::List;
        if !owned {
            let pin = Pin { owner: Some(owner.name().to_owned()), ..(*here).clone() };
            changes.push(PinChange::Write(pin));
        }
    }
    changes
}

/// The pins that the list owns and whose images it does not name any more.
pub(super) fn no_longer_listed(pins: Vec<Pin>, listed: &[RequestedImage]) -> Vec<Pin> {
    let listed: HashSet<(String, String)> = listed
        .iter()
        .map(|each| (each.image.repository.to_string(), each.image.reference.to_string()))
        .collect();
    pins.into_iter()
        .filter(|pin| pin.owner.as_deref() == Some(PinOwner::List.name()))
        .filter(|pin| !listed.contains(&(pin.repository.to_string(), pin.reference.clone())))
        .collect()
}

fn is_of(pin: &Pin, image: &Image) -> bool {
    pin.repository == image.repository && pin.reference == image.reference.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::PullSecrets;

    fn image() -> Image {
        "reg.test/app:v1".parse().unwrap()
    }

    fn pin(root: &[u8], owner: Option<PinOwner>) -> Pin {
        let (image, root) = (image(), Digest::of(root));
        Pin {
            repository: image.repository,
            reference: image.reference.to_string(),
            root,
            digests: vec![root],
            owner: owner.map(|owner| owner.name().to_owned()),
        }
    }

    #[test]
    fn a_tag_that_moved_leaves_no_pin_behind_and_a_failed_fetch_none_of_its_own() {
        use PinChange::{Remove, Write};
        use PinOwner::{Command, List};
        let (old, new) = (pin(b"old", Some(List)), pin(b"new", None));
        let pins = [old.clone(), new.clone()];
        let arrived = afterwards(&pins, &image(), Some(Digest::of(b"new")), List);
        assert_eq!(arrived, [Remove(old), Write(pin(b"new", Some(List)))]);
        assert_eq!(afterwards(&pins, &image(), None, List), [Remove(new)]);

        let by_hand = [pin(b"new", Some(Command))];
        assert_eq!(afterwards(&by_hand, &image(), Some(Digest::of(b"new")), List), []);
        let listed = [pin(b"new", Some(List))];
        let taken_over = afterwards(&listed, &image(), Some(Digest::of(b"new")), Command);
        assert_eq!(taken_over, [Write(pin(b"new", Some(Command)))]);
        let other = "reg.test/app:v2".parse().unwrap();
        assert_eq!(afterwards(&listed, &other, Some(Digest::of(b"new")), Command), []);
    }

    #[test]
    fn a_second_platform_does_not_unpin_the_first() {
        let before = pin(b"root", Some(PinOwner::Command));
        let added = Digest::of(b"arm64");
        let both = while_fetching(vec![before.clone()], &image(), before.root, vec![before.root, added]);
        assert_eq!(both.digests, [before.root, added]);
        let again = while_fetching(vec![both], &image(), before.root, vec![before.root]);
        assert_eq!(again.digests, [before.root, added]);
        assert_eq!(again.owner, before.owner);
        assert_eq!(while_fetching(vec![before], &image(), added, vec![added]), pin(b"arm64", None));
    }

    #[test]
    fn an_image_that_left_the_list_is_unpinned_and_what_a_command_pinned_is_not() {
        let pins = vec![pin(b"a", Some(PinOwner::List)), pin(b"b", Some(PinOwner::Command)), pin(b"c", None)];
        let listed = [RequestedImage { image: image(), secrets: PullSecrets::default() }];
        assert_eq!(no_longer_listed(pins.clone(), &listed), []);
        assert_eq!(no_longer_listed(pins, &[]), [pin(b"a", Some(PinOwner::List))]);
    }
}
