//! Errors by which the machine says that it is short of something, which is no fault of who is connected to.

use std::io;

use rustix::io::Errno;

/// Whether an error says that this node lacks file descriptors, memory or threads.
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    // What names no number is ours: see `of_threads`.
    let is_ours = || error.kind() == io::ErrorKind::OutOfMemory;
    error.raw_os_error().map_or_else(is_ours, |code| shortages.iter().any(|e| e.raw_os_error() == code))
}

/// The shortage that a thread could not be made for.
pub fn of_threads(error: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, format!("no thread can be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_what_a_host_answers() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_shortage(&errno.into()), "{errno}");
        }
        assert!(is_shortage(&of_threads(&Errno::AGAIN.into())));
        for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT, Errno::AGAIN] {
            assert!(!is_shortage(&errno.into()), "{errno}");
        }
    }
}
