//! Which addresses of a name are connected to.
//!
//! Deliberately not here: look-ups, and which addresses may be connected to.

use std::net::SocketAddr;

/// Addresses of one family that are tried: the time for connecting is divided among them.
pub const TRIED_MAX: usize = 3;

/// The first few addresses of each family.
pub fn tried(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut v4, mut v6) = (0, 0);
    let is_tried = |at: &SocketAddr| {
        let of_family = if at.is_ipv4() { &mut v4 } else { &mut v6 };
        *of_family += 1;
        *of_family <= TRIED_MAX
    };
    addresses.into_iter().filter(is_tried).collect()
}
