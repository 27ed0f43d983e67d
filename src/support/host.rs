//! The name of this machine.

/// The kernel's name of this machine; empty if it is not text. Read by uname(2): a service that sees no `/proc/sys`
/// (`ProcSubset=pid`) has it too.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_name_is_the_kernels() {
        let kernels = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(super::name(), kernels.trim());
    }
}
