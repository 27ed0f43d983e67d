//! `larder status --watch`: look after look, until it is interrupted.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use crate::program::Program;

/// What clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_the_stop_of_the_daemon_and_ends_with_its_reader() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), "");
    let mut watch = program.watch(&["status", "--watch", "--json"], false);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut look = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    // It answers before it is ready.
    while look()["ready"] != true {}
    assert_eq!(look()["ready"], true);
    program.stop("stopped").await;
    drop(program);
    let failed = (0..3).map(|_| look()).find(|look| look.get("error").is_some());
    assert!(failed.unwrap()["error"].as_str().unwrap().contains("larder.sock"));
    drop(lines);
    assert!(!watch.wait().unwrap().success(), "what cannot be printed is told by the exit code");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_look_at_a_terminal_takes_the_place_of_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), "");
    let mut watch = program.watch(&["status", "--watch"], true);
    let (mut out, mut seen) = (watch.stdout.take().unwrap(), String::new());
    let mut buffer = [0; 4096];
    while seen.matches(CLEAR).count() < 3 {
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "it ended: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    let looks: Vec<&str> = seen.split(CLEAR).collect();
    assert_eq!(looks[0], "", "{seen:?}");
    for look in &looks[1..3] {
        assert!(look.starts_with("larder ") && look.contains("ready") && look.contains("store "), "{look:?}");
    }
}
