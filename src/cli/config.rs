//! `larder config check|print`.

use clap::Subcommand;

use super::context::Context;
use super::daemon::InEffect;
use super::failure::Failure;
use super::output::{print, print_line};
use crate::app;
use crate::config::{self, Loaded, Mistake};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Report every mistake at once, and every file that the daemon would not start with
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
    let said = |mistakes: &[serde_json::Value]| match json {
        true => print_line(&serde_json::json!({"ok": mistakes.is_empty(), "mistakes": mistakes}).to_string()),
        false => Ok(()),
    };
    let Loaded { settings, from } = config::load(context.file.as_deref(), &context.environment)
        .map_err(|error| said(&problems_of(&error)).err().unwrap_or_else(|| Failure::usage(error)))?;
    let refused = app::check(&settings);
    let problems = refused
        .iter()
        .map(|(key, error)| serde_json::json!({"key": key, "problem": error.to_string(), "source": null}));
    said(&problems.collect::<Vec<_>>())?;
    if !refused.is_empty() {
        let all: Vec<String> = refused.iter().map(|(key, error)| format!("\n  {key}: {error}")).collect();
        return Err(Failure::usage(format!("the daemon does not start with {from}:{}", all.concat())));
    }
    if json { Ok(()) } else { print_line(&format!("ok: {from}")) }
}

fn show(from_files: bool, context: &Context) -> Result<(), Failure> {
    if from_files {
        let Loaded { settings, from } = context.load()?;
        let text = config::print_with_sources(&settings);
        return print(&format!("# what the next start would have, from {from}\n{text}"));
    }
    let asked = InEffect::ask(context)?;
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
        Err(why) => (
            vec![format!("no daemon answered ({why}); what follows is from {}", asked.from)],
            config::print_with_sources(&asked.settings),
        ),
    };
    let head: String = head.iter().map(|line| format!("# {line}\n")).collect();
    print(&format!("{head}{text}"))
}

/// The mistakes as JSON; of a file that cannot be read that one thing.
fn problems_of(error: &config::Error) -> Vec<serde_json::Value> {
    match error {
        config::Error::Mistaken { mistakes, .. } => mistakes.iter().map(json_of).collect(),
        config::Error::Unreadable { path, .. } => {
            let source = path.display().to_string();
            vec![serde_json::json!({"key": null, "problem": error.to_string(), "source": source})]
        }
    }
}

fn json_of(mistake: &Mistake) -> serde_json::Value {
    let Mistake { key, problem, source } = mistake;
    let source = source.as_ref().map(ToString::to_string);
    serde_json::json!({"key": key, "problem": problem, "source": source})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn a_file_that_cannot_be_read_is_told_in_json_too() {
        let missing = std::path::Path::new("/nowhere/larder.toml");
        let error = config::load(Some(missing), &Environment::default()).unwrap_err();
        let [told] = &problems_of(&error)[..] else { panic!("{error:?}") };
        assert_eq!(
            (&told["key"], &told["source"]),
            (&serde_json::Value::Null, &"/nowhere/larder.toml".into())
        );
        assert!(told["problem"].as_str().unwrap().contains("cannot read"), "{told}");
    }
}
