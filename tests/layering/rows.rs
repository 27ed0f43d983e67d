//! The rows: lowest layer first; what stands in one row does not see the others of that row.

/// The rooms of `src/`.
pub(crate) const ROOMS: &[&[&str]] = &[
    &["support"],
    &["reference"],
    &["listener", "credentials", "store"],
    &["upstream"],
    &["pull"],
    &["serve", "prepull"],
    &["admin"],
    &["config"],
    &["reload"],
    &["app"],
    &["cli", "fuzzing"],
];

/// Pairs of rooms that the rows above would allow and the design does not.
pub(crate) const NEVER: &[(&str, &str)] =
    &[("upstream", "store"), ("upstream", "listener"), ("pull", "listener")];

/// Rooms without circles of files.
pub(crate) const WITHOUT_CIRCLES: &[&str] = &[
    "support",
    "reference",
    "listener",
    "credentials",
    "store",
    "upstream",
    "pull",
    "serve",
    "prepull",
    "admin",
    "config",
    "app",
];

/// The files of a room; `mod` is the room's own front.
pub(crate) const WITHIN: &[(&str, &[&[&str]])] = &[
    (
        "pull",
        &[
            &["config", "error", "metrics"],
            &["answer", "context", "registry_client"],
            &[
                "access/refused_repositories",
                "access/grants",
                "access/membership",
                "access/negative_cache",
                "access/outages",
                "access/principals",
                "access/rights",
            ],
            &["access/known_rights"],
            &["access/authorize"],
            &["access"],
            &["manifest/confirmed", "manifest/freshness", "manifest/memory_cache"],
            &["manifest/fetch", "manifest/stored"],
            &["manifest/resolve"],
            &["manifest"],
            &["blob/concurrency", "blob/flight", "blob/source", "blob/stored", "blob/withheld_tail"],
            &["blob/byte_range", "blob/passthrough", "blob/priority", "blob/segments"],
            &["blob/transfer"],
            &["blob/fill"],
            &["blob/download"],
            &["blob/follow"],
            &["blob"],
            &["prefetch"],
            &["content"],
            &["arch_alias/names", "arch_alias/records"],
            &["arch_alias"],
            &["import"],
            &["mod"],
        ],
    ),
    (
        "upstream",
        &[
            &[
                "auth/authorization",
                "auth/challenge",
                "error",
                "headers",
                "metrics",
                "redirect",
                "transport/address",
                "transport/authority",
                "transport/network",
            ],
            &[
                "auth/challenge_cache",
                "auth/realm",
                "auth/token_cache",
                "config",
                "endpoint/rate_limit",
                "received",
                "request",
            ],
            &["auth/token_request", "body", "endpoint/select", "transport/dial", "transport/tls"],
            &["download", "endpoint/health", "response", "transport/send"],
            &["endpoint", "transport/connect"],
            &["transport/configured"],
            &["transport/client", "transport/scripted"],
            &["auth/tokens", "transport"],
            &["auth/authenticator"],
            &["auth", "exchange"],
            &["attempts"],
            &["client"],
            &["mod"],
        ],
    ),
];

/// Outside crates that are used in one place only.
pub(crate) const DOORS: &[(&str, &str)] = &[
    ("sled", "store/table.rs"),
    ("sha2", "reference/digest.rs"),
    ("strsim", "config/variables.rs"),
    ("prometheus", "support/metrics.rs"),
    ("hyper_rustls", "upstream/transport/connect.rs"),
    ("http_auth", "upstream/auth/challenge.rs"),
    ("clap", "cli/"),
    ("indicatif", "cli/"),
    ("tar", "cli/import.rs"),
    ("similar", "cli/setup/"),
    ("listenfd", "cli/service.rs"),
    ("sd_notify", "cli/service.rs"),
    ("tracing_subscriber", "cli/"),
    ("serde_saphyr", "support/yaml.rs"),
    ("lru", "support/bounded_map.rs"),
    ("tokio_util", "support/tasks.rs"),
    ("arc_swap", "support/live.rs"),
    ("psl", "upstream/auth/realm.rs"),
];
