//! Where this cache is, and what it wants to see of a client: what the files of a runtime are compared with.

use http::HeaderName;
use toml_edit::{Item, TableLike};

use crate::cli::daemon::InEffect;
use crate::serve::{Gate, GateConfig};

/// Where this cache is, and what it wants to see of a client.
pub(super) struct Here {
    /// As runtimes name it: `http://127.0.0.1:5050`.
    pub(super) urls: Vec<String>,
    /// What every request must carry, if anything.
    pub(super) header: Option<WantedHeader>,
}

/// The header of `[server] gate_header`.
pub(super) struct WantedHeader {
    pub(super) name: HeaderName,
    /// With its value; else why that is not known to this command.
    gate: Result<Gate, String>,
}

/// What a host of a `hosts.toml` sends in the header that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// The value that is wanted.
    Wanted,
    /// Something else, or more than one value.
    Another,
    /// No such header.
    Nothing,
    /// A value; whether it is the one that is wanted is not known, and why.
    Unknown(String),
}

impl Here {
    /// As the daemon says it, else as its configuration does. Blocks for a moment.
    pub(super) fn of(asked: &InEffect) -> Self {
        Self {
            urls: asked.reached_at().iter().map(|at| format!("http://{at}")).collect(),
            header: asked.settings.serve.gate.as_ref().map(WantedHeader::read),
        }
    }

    /// What is said behind "leads here" of a runtime that sends what is wanted.
    pub(super) fn sends(&self) -> &'static str {
        if self.header.is_some() { " and sends the header of [server] gate_header" } else { "" }
    }
}

impl WantedHeader {
    fn read(config: &GateConfig) -> Self {
        let gate = Gate::read(config).map_err(|error| error.to_string());
        Self { name: config.header.clone(), gate }
    }

    /// What a host sends. containerd takes names in any case; of one that is there twice it sends either.
    pub(super) fn sent_by(&self, host: &dyn TableLike) -> Sent {
        let table = host.get("header").and_then(Item::as_table_like);
        let all = table.into_iter().flat_map(TableLike::iter);
        let named: Vec<&Item> = all
            .filter(|(name, _)| name.eq_ignore_ascii_case(self.name.as_str()))
            .map(|(_, item)| item)
            .collect();
        match &self.gate {
            _ if named.is_empty() => Sent::Nothing,
            Err(why) => Sent::Unknown(why.clone()),
            Ok(gate) if named.iter().all(|item| is_one(item, gate.value().reveal())) => Sent::Wanted,
            Ok(_) => Sent::Another,
        }
    }
}

/// Whether an item is a value, or a list with this value alone: what is sent twice does not pass.
fn is_one(item: &Item, value: &str) -> bool {
    let listed = item.as_array().filter(|all| all.len() == 1).and_then(|all| all.get(0)?.as_str());
    item.as_str().or(listed) == Some(value)
}
