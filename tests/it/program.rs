//! `larder serve` as a process of its own: what only a process has, such as signals.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

/// A running daemon with a configuration file. It is killed when it is dropped.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    config: PathBuf,
    log: Arc<Mutex<String>>,
    child: Child,
}

impl Program {
    /// Starts it over `directory`, with these lines after the addresses of its own.
    pub(crate) fn start(directory: &Path, lines: &str) -> Self {
        Self::start_in(directory, lines, &[])
    }

    /// The same, with these variables in its environment.
    pub(crate) fn start_in(directory: &Path, lines: &str, variables: &[(&str, &str)]) -> Self {
        let mut this = Self::spawn(directory, lines, variables);
        let (written, mut errors) = (Arc::clone(&this.log), this.child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut buffer) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        this
    }

    /// The same, with a log that is not read.
    pub(crate) fn start_unread(directory: &Path, lines: &str) -> Self {
        Self::spawn(directory, lines, &[])
    }

    fn spawn(directory: &Path, lines: &str, variables: &[(&str, &str)]) -> Self {
        let config = directory.join("larder.toml");
        fs::write(&config, whole(lines)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--config", config.to_str().unwrap()])
            .env_clear()
            .env("XDG_STATE_HOME", directory)
            .env("HOME", directory)
            .env("XDG_RUNTIME_DIR", directory)
            .env("RUNTIME_DIRECTORY", directory)
            .env("STATE_DIRECTORY", directory.join("state"))
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Both are printed once they are bound: `registry     http://127.0.0.1:5050`.
        let mut printed = |what: &str| {
            let found = lines.find_map(|line| {
                let line = line.unwrap();
                let rest = line.strip_prefix(what)?.trim().trim_start_matches("http://");
                Some(rest.split(' ').next().unwrap().parse().unwrap())
            });
            found.unwrap_or_else(|| panic!("it ended before it said {what}"))
        };
        let (address, admin) = (printed("registry"), printed("admin"));
        // Reads on, so that later lines do not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { address, admin, config, log, child }
    }

    /// Runs a command against it; returns its exit code and what it printed.
    pub(crate) fn command(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = self.within(env!("CARGO_BIN_EXE_larder"));
        let done = command.args(["--config", self.config.to_str().unwrap()]).args(words).output().unwrap();
        let text = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs `words` against it on a terminal (`script` of util-linux), or without one, until it is killed.
    pub(crate) fn watch(&self, words: &[&str], terminal: bool) -> Child {
        let config = self.config.to_str().unwrap();
        let words = [&[env!("CARGO_BIN_EXE_larder"), "--config", config], words].concat();
        let mut command = if terminal {
            let mut script = self.within("/usr/bin/script");
            script.env("SHELL", "/bin/sh").env("TERM", "dumb");
            script.args([
                "--quiet",
                "--flush",
                "--command",
                &format!("exec {}", words.join(" ")),
                "/dev/null",
            ]);
            script
        } else {
            let mut command = self.within(words[0]);
            command.args(&words[1..]);
            command
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// A program with the environment of the daemon.
    fn within(&self, program: &str) -> Command {
        let directory = self.config.parent().unwrap();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("XDG_STATE_HOME", directory)
            .env("HOME", directory)
            .env("XDG_RUNTIME_DIR", directory)
            .env("RUNTIME_DIRECTORY", directory)
            .env("STATE_DIRECTORY", directory.join("state"));
        command
    }

    /// Another configuration from now on.
    pub(crate) fn write(&self, lines: &str) {
        fs::write(&self.config, whole(lines)).unwrap();
    }

    /// SIGHUP; returns what the log says from then on, once it says `expected`.
    pub(crate) async fn reload(&self, expected: &str) -> String {
        let before = self.log.lock().unwrap().len();
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
        self.wait(before, expected).await
    }

    /// SIGTERM; returns what the log says from then on, once it says `expected`.
    pub(crate) async fn stop(&self, expected: &str) -> String {
        let before = self.log.lock().unwrap().len();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.wait(before, expected).await
    }

    /// Returns what the log says, once it says `expected`.
    pub(crate) async fn wait_for(&self, expected: &str) -> String {
        self.wait(0, expected).await
    }

    async fn wait(&self, before: usize, expected: &str) -> String {
        for _ in 0..1_000 {
            let new = self.log.lock().unwrap()[before..].to_owned();
            if new.contains(expected) {
                return new;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("no {expected:?} in {}", &self.log.lock().unwrap()[before..]);
    }
}

/// Ports that the operating system chooses, and a store on a disk that may be nearly full.
fn whole(lines: &str) -> String {
    let has = |section: &str| lines.lines().any(|line| line.trim() == section);
    let mut text = lines.to_owned();
    for (section, line) in [
        ("[server]", "listen = [\"127.0.0.1:0\"]"),
        ("[admin]", "listen = \"127.0.0.1:0\""),
        ("[store]", "min_free = \"0%\""),
    ] {
        if text.contains(&format!("{section}\nlisten")) {
            continue;
        }
        text = if has(section) {
            text.replacen(section, &format!("{section}\n{line}"), 1)
        } else {
            format!("{text}\n{section}\n{line}\n")
        };
    }
    text
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
