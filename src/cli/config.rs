//! `larder config check|print`.

use std::path::Path;

use clap::Subcommand;

use super::context::{Context, GOES_ON};
use super::daemon::{InEffect, NoAnswer};
use super::failure::Failure;
use super::output::{print, print_line, warn};
use crate::app;
use crate::cli::units::service_unit::{self, Unit};
use crate::config::{self, Environment, Loaded, Mistake, Settings};
use crate::tier::BuildError;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Report every mistake at once, and every file that the daemon would not start with; as root with the variables of
    /// the installed unit
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is in effect in the running daemon, as a configuration file
    Print {
        /// Show what the files and this environment say, whatever the daemon does
        #[arg(long)]
        from_files: bool,
    },
}

pub(super) fn run(command: &ConfigCommand, context: &Context) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { json } => check(*json, context),
        ConfigCommand::Print { from_files } => show(*from_files, context),
    }
}

fn check(json: bool, context: &Context) -> Result<(), Failure> {
    // A file that is named is not the one that the unit starts with.
    let is_the_units = context.file.is_none() && context.environment.config.is_none();
    let unit = if is_the_units { service_unit::installed() } else { None };
    let (mistakes, loaded) = match config::load(context.file.as_deref(), &environment(context, unit.as_ref()))
    {
        Ok(loaded) => (Vec::new(), loaded),
        Err(config::Error::Mistaken { mistakes, rest }) => (mistakes, *rest),
        Err(error @ config::Error::Unreadable { .. }) => {
            said(json, &[json_of_unreadable(&error)], &[])?;
            return Err(Failure::usage(error));
        }
    };
    let Checked { refused, mut warnings } =
        Checked::of(&loaded.settings, unit.is_some(), mistakes.is_empty());
    warnings.extend(unit.iter().flat_map(|unit| differences(unit, &loaded)));
    let of_files = refused
        .iter()
        .map(|(key, problem)| serde_json::json!({"key": key, "problem": problem, "source": null}));
    said(json, &mistakes.iter().map(json_of).chain(of_files).collect::<Vec<_>>(), &warnings)?;
    if !json {
        warnings.iter().for_each(|warning| warn(&format!("warning: {warning}")));
    }
    let of_unit = if unit.is_some() { ", with the variables of larder.service" } else { "" };
    let from = format!("{}{of_unit}", loaded.from);
    let of_files = refused.iter().map(|(key, error)| format!("{key}: {error}"));
    let all: Vec<String> = mistakes.iter().map(Mistake::to_string).chain(of_files).collect();
    let lines: String = all.iter().map(|line| format!("\n  {line}")).collect();
    match (all.is_empty(), mistakes.is_empty()) {
        (true, _) if json => Ok(()),
        (true, _) => print_line(&format!("ok: {from}")),
        (false, true) => Err(Failure::usage(format!("the daemon does not start with {from}:{lines}"))),
        (false, false) => Err(Failure::usage(format!("{from} has {} mistake(s):{lines}", all.len()))),
    }
}

/// What a check found, as JSON where that is asked for.
fn said(json: bool, mistakes: &[serde_json::Value], warnings: &[String]) -> Result<(), Failure> {
    let found = serde_json::json!({"ok": mistakes.is_empty(), "mistakes": mistakes, "warnings": warnings});
    if json { print_line(&found.to_string()) } else { Ok(()) }
}

/// What is found beyond the text of a configuration, each with its key.
struct Checked {
    /// What the daemon does not start with.
    refused: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Checked {
    /// Of the daemon of the installed unit, where that `is_units`; `is_whole`: no key has a mistake.
    fn of(settings: &Settings, is_units: bool, is_whole: bool) -> Self {
        let (mut refused, mut warnings) = (Vec::new(), Vec::new());
        let found = app::check(settings).into_iter();
        for (key, error) in found.filter(|(key, error)| is_whole || !may_be_of_a_mistake(key, error)) {
            match doubt(&key, &error, settings).filter(|_| is_units) {
                Some(doubt) => warnings.push(format!("{key}: {doubt}: {error}")),
                None => refused.push((key, error.to_string())),
            }
        }
        let unreadable = app::unreadable(settings).into_iter().map(|(key, error)| (key, error.to_string()));
        let certain = unreadable.filter(|(_, error)| !(is_units && is_a_credential_of_a_unit_at_rest(error)));
        warnings.extend(certain.map(|(key, error)| format!("{key}: {error}")));
        Self { refused, warnings }
    }
}

/// Whether a part may lack only what a key with a mistake would have said: of the tier, or which directories the start
/// makes.
fn may_be_of_a_mistake(key: &str, error: &app::Error) -> bool {
    matches!(error, app::Error::Tier(BuildError::Settings(_) | BuildError::NotCompiledIn))
        || is_directory_of_a_socket(key, error)
}

fn is_directory_of_a_socket(key: &str, error: &app::Error) -> bool {
    key == app::LISTEN && matches!(error, app::Error::File { .. })
}

/// That of the installed unit, else of this process.
fn environment(context: &Context, unit: Option<&Unit>) -> Environment {
    let own = context.environment.clone();
    match unit {
        Some(unit) => own.with_variables(&unit.variables),
        None => own,
    }
}

/// Why an error may not be one for the daemon of the unit; `None` where it is.
fn doubt(key: &str, error: &app::Error, settings: &Settings) -> Option<&'static str> {
    if is_directory_of_a_socket(key, error) {
        return Some("systemd may make this directory (RuntimeDirectory=, StateDirectory=, larder.socket)");
    }
    if is_a_credential_of_a_unit_at_rest(&error.to_string()) {
        return Some("not checked, since systemd has this file only while larder.service runs");
    }
    // What no file says of the object store, the variables of the process say.
    let is_of_variables = matches!(error, app::Error::Tier(BuildError::Settings(_)))
        && settings.tier.as_ref().is_some_and(|tier| tier.key_file.is_none());
    is_of_variables.then_some("by the variables of this shell, not by those of larder.service")
}

fn is_a_credential_of_a_unit_at_rest(error: &str) -> bool {
    error.contains(service_unit::CREDENTIALS) && !Path::new(service_unit::CREDENTIALS).exists()
}

/// What this check, as root, can do and the daemon of the unit perhaps not, and what it does not know of.
fn differences(unit: &Unit, loaded: &Loaded) -> Vec<String> {
    let files = unit.files.iter();
    let mut all: Vec<String> = files
        .map(|file| format!("{file}: larder.service has variables from there too, which are not looked at"))
        .collect();
    let named = app::files(&loaded.settings);
    let read = loaded.files.iter().chain(&named).filter(|file| !file.starts_with("/run/credentials"));
    all.extend(read.filter_map(|file| unit.keeps_from(file)));
    let socket = loaded.settings.kubernetes.runtime_socket.iter();
    all.extend(socket.filter_map(|socket| unit.keeps_from_socket(socket)));
    all
}

fn show(from_files: bool, context: &Context) -> Result<(), Failure> {
    if from_files {
        let Loaded { settings, from, .. } = context.load()?;
        let text = config::print_with_sources(&settings);
        return print(&format!("# what the next start would have, from {from}\n{text}"));
    }
    let asked = InEffect::ask(context)?;
    asked.mistakes.iter().for_each(|mistakes| warn(&format!("{mistakes}\n{GOES_ON}")));
    let (head, text) = match &asked.daemon {
        Ok(said) => {
            let at = asked.settings.admin.socket.display();
            let mut head = vec![format!("in effect in the daemon that answers on {at}")];
            head.push(format!("it listens on {}", said.listening.join(", ")));
            let changed = said.from_the_next_start.iter();
            head.extend(
                changed.map(|key| format!("{key} has been changed since, and counts from the next start")),
            );
            (head, said.text.clone())
        }
        Err(NoAnswer { why, .. }) => (
            vec![format!("no daemon answered ({why}); what follows is from {}", asked.from)],
            config::print_with_sources(&asked.settings),
        ),
    };
    let head: String = head.iter().map(|line| format!("# {line}\n")).collect();
    print(&format!("{head}{text}"))
}

/// A file that cannot be read, as the one mistake.
fn json_of_unreadable(error: &config::Error) -> serde_json::Value {
    let source = match error {
        config::Error::Unreadable { path, .. } => Some(path.display().to_string()),
        config::Error::Mistaken { .. } => None,
    };
    serde_json::json!({"key": null, "problem": error.to_string(), "source": source})
}

fn json_of(mistake: &Mistake) -> serde_json::Value {
    let Mistake { key, problem, source } = mistake;
    let source = source.as_ref().map(ToString::to_string);
    serde_json::json!({"key": key, "problem": problem, "source": source})
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::units::service_unit::Hidden;

    #[test]
    fn what_root_alone_may_read_is_not_passed_over_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let (file, gate) = (directory.path().join("larder.toml"), directory.path().join("gate"));
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::write(&file, format!("[server]\ngate_header = \"X-K\"\ngate_file = {gate:?}\n")).unwrap();
        std::fs::write(&gate, "0123456789abcdef").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(&gate, Permissions::from_mode(0o600)).unwrap();
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let loaded = config::load(Some(&file), &environment).unwrap();
        let with_user = Unit { has_user: true, ..Unit::default() };
        let said = differences(&with_user, &loaded);
        // A file of another user than root is that user's to read.
        let expected = usize::from(rustix::process::geteuid().is_root());
        assert_eq!(said.len(), expected, "{said:?}");
        assert!(said.iter().all(|said| said.contains("gate: only root") && said.contains("LoadCredential")));
        assert_eq!(differences(&Unit::default(), &loaded), [""; 0], "root's own daemon reads it");
        let hidden = Hidden { directory: "/tmp", setting: "PrivateTmp=", admits_bindings: true };
        let hides_it = Unit { hidden: vec![hidden], ..Unit::default() };
        let hidden = differences(&hides_it, &loaded);
        assert_eq!(hidden.len(), if directory.path().starts_with("/tmp") { 2 } else { 0 }, "{hidden:?}");
        let files = vec!["/etc/default/larder".to_owned()];
        assert_eq!(differences(&Unit { files, ..Unit::default() }, &loaded).len(), 1);
    }

    #[test]
    fn what_the_variables_of_the_shell_lack_for_the_tier_is_no_mistake_of_the_unit_and_a_file_is_one() {
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let settings = |more: &str| {
            config::resolve(&format!("[tier]\nurl = \"az://c/p\"\n{more}"), &environment).unwrap()
        };
        let lacks = || app::Error::Tier(BuildError::Settings("no account".to_owned()));
        let file = app::Error::Tier(BuildError::File { path: "/ca.pem".into(), why: "is absent".to_owned() });
        assert!(doubt("[tier]", &lacks(), &settings("")).is_some());
        assert_eq!(doubt("[tier]", &file, &settings("")), None, "the daemon reads it too");
        assert_eq!(doubt("[tier]", &lacks(), &settings("key_file = \"/key\"")), None, "the file says it");
    }

    #[test]
    fn a_check_judges_by_the_variables_of_the_unit_and_not_by_those_of_the_shell() {
        let of_shell = Environment {
            home: Some("/h".into()),
            overrides: [("LARDER_STORE_MAX_BYTES".to_owned(), "1GiB".to_owned())].into(),
            ..Environment::default()
        };
        let context = Context { file: None, environment: of_shell };
        let variables = [("LARDER_STOR_PATH", "/x"), ("HTTPS_PROXY", "http://p:3129"), ("AWS_REGION", "r")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let used = environment(&context, Some(&Unit { variables, ..Unit::default() }));
        assert_eq!(used.overrides.keys().collect::<Vec<_>>(), ["LARDER_STOR_PATH"]);
        assert_eq!(used.proxy.https, "http://p:3129");
        assert!(config::resolve("", &used).is_err(), "a variable that is no setting");
        assert_eq!(environment(&context, None).overrides.len(), 1);
    }

    #[test]
    fn a_mistake_of_the_text_hides_no_file_that_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let (file, none) = (directory.path().join("larder.toml"), directory.path().join("none"));
        let text = format!(
            "[server]\nlisen = \"127.0.0.1:1\"\ngate_header = \"x-k\"\ngate_file = \"{0}-gate\"\n\
            [credentials]\nprovider_config = \"{0}.yaml\"\nprovider_bin_dir = \"/\"\nhelper_dir = \"{0}-helpers\"\n\
            node = [\"{0}-node\"]\n[prepull]\nmanifests = \"{0}-manifests\"\n\
            [[registry]]\nhost = \"https://r.corp/\"\nca = \"{0}-a.pem\"\n\
            [[registry]]\nhost = \"r.corp\"\nca = \"{0}-b.pem\"\nclient_cert = \"{0}-c.pem\"\nclient_key = \"{0}-d.pem\"\n",
            none.display()
        );
        std::fs::write(&file, text).unwrap();
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let config::Error::Mistaken { mistakes, rest } = config::load(Some(&file), &environment).unwrap_err()
        else {
            panic!("it has mistakes")
        };
        assert_eq!(mistakes.len(), 2, "one for the key and one for the host: {mistakes:?}");
        let Checked { refused, warnings } = Checked::of(&rest.settings, false, false);
        let (refused, warnings) = (format!("{refused:?}"), format!("{warnings:?}"));
        for missing in ["gate", ".yaml", "a.pem", "b.pem", "c.pem", "d.pem"] {
            let name = format!("{}-{missing}", none.display()).replace("-.", ".");
            assert_eq!(refused.matches(&name).count(), 1, "{name}: {refused}");
        }
        for missing in ["helpers", "node", "manifests"] {
            assert!(warnings.contains(&format!("none-{missing}: No such file")), "{missing}: {warnings}");
        }
    }

    #[test]
    fn a_mistake_in_one_key_hides_no_file_of_the_key_that_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (file, none) = (directory.path().join("larder.toml"), directory.path().join("none"));
        let text = format!(
            "[server]\ngate_header = \"x k\"\ngate_file = \"{0}-gate\"\nstate = \"srv/l\"\nlisten = [\"unix:{0}/r.sock\"]\n\
            [credentials]\nprovider_config = \"relative\"\nprovider_bin_dir = \"{0}-plugins\"\n\
            [tier]\nurl = \"nfs://x\"\nca = \"{0}-tier\"\n\
            [[registry]]\nhost = \"r.corp\"\nca = \"{0}-first\"\nclient_cert = \"relative\"\nclient_key = \"{0}-key\"\n\
            [[registry]]\nhost = \"r.corp\"\nca = \"{0}-second\"\n",
            none.display()
        );
        std::fs::write(&file, text).unwrap();
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let config::Error::Mistaken { rest, .. } = config::load(Some(&file), &environment).unwrap_err()
        else {
            panic!("it has mistakes")
        };
        let Checked { refused, warnings } = Checked::of(&rest.settings, false, false);
        for missing in ["gate", "plugins", "first", "key", "second"] {
            let name = format!("none-{missing}");
            assert!(refused.iter().any(|(_, error)| error.contains(&name)), "{name}: {refused:?}");
        }
        assert!(warnings.concat().contains("none-tier"), "it may be one that nothing reads: {warnings:?}");
        let of_sockets = refused.iter().filter(|(key, _)| key == app::LISTEN);
        assert_eq!(of_sockets.count(), 0, "the start may make what a mistake does not say: {refused:?}");
    }

    #[test]
    fn a_check_refuses_a_socket_in_a_directory_that_nobody_makes() {
        let environment = |home: &str| Environment { home: Some(home.into()), ..Environment::default() };
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("none/state");
        let found = |at: &Path, is_units| {
            let text = format!("[server]\nstate = {state:?}\nlisten = [\"unix:{}\"]\n", at.display());
            let Checked { refused, warnings } =
                Checked::of(&config::resolve(&text, &environment("/h")).unwrap(), is_units, true);
            (refused.into_iter().map(|(key, error)| format!("{key}: {error}")).collect::<String>(), warnings)
        };
        for made in [state.join("r.sock"), directory.path().join("none/r.sock")] {
            assert_eq!(found(&made, false), (String::new(), Vec::new()), "the start makes it");
        }
        let (refused, warnings) = found(&state.join("below/r.sock"), false);
        assert!(
            refused.starts_with("[server] listen: ") && refused.contains("state/below: No such file"),
            "{refused}"
        );
        assert_eq!(warnings, [""; 0]);
        for above in ["/run", "/var/run", "/var/lib", "/srv"] {
            let of_systemd = Path::new(above).join("nobody-has-made-this/r.sock");
            let (refused, warnings) = found(&of_systemd, true);
            assert!(refused.is_empty() && warnings.concat().contains("systemd may make this"), "{refused}");
            assert!(found(&of_systemd, false).0.contains("nobody-has-made-this"));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_in_json_too() {
        let missing = std::path::Path::new("/nowhere/larder.toml");
        let error = config::load(Some(missing), &Environment::default()).unwrap_err();
        let told = json_of_unreadable(&error);
        assert_eq!(
            (&told["key"], &told["source"]),
            (&serde_json::Value::Null, &"/nowhere/larder.toml".into())
        );
        assert!(told["problem"].as_str().unwrap().contains("cannot read"), "{told}");
    }
}
