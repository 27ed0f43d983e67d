//! The units of systemd that Larder is installed with, as commands read them: `larder.socket` and `larder.service`.
//!
//! Deliberately not here: what the daemon and systemd tell each other (`serve/systemd`).

pub(super) mod service_unit;
pub(super) mod socket_unit;
