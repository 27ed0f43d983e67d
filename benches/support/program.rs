//! The program that is measured.

/// The path in `BENCH_PROGRAM`, which `make bench` sets to the program that `cargo build --release` makes, as the packages
/// have it. Without it: the program that cargo builds for a benchmark, whose dependencies have the features that the tests
/// ask for.
pub(crate) fn path() -> String {
    std::env::var("BENCH_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_larder").to_owned())
}

/// Which of the two it is, for the reports.
pub(crate) fn describe() -> &'static str {
    if std::env::var_os("BENCH_PROGRAM").is_some() {
        "the program of `cargo build --release`"
    } else {
        "a program with the tests' features"
    }
}
