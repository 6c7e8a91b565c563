//! Variables of the environment that are no settings, and files, with what they are for.

/// Variables that horde reads besides `HORDE_<SECTION>_<NAME>`, which every setting has.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "NO_COLOR",
        "no colours, if it is set and not empty; beats those below",
    ),
    ("CLICOLOR_FORCE", "colours also where no terminal is, unless 0"),
    ("FORCE_COLOR", "the same"),
    ("CLICOLOR", "0: no colours"),
    (
        "TERM",
        "dumb: no colours, no moves of the cursor; else what the dashboard may draw with",
    ),
    ("COLORTERM", "that the terminal has all colours"),
    ("COLUMNS", "the width of a frame that is drawn without a terminal"),
    (
        "LC_ALL",
        "whether the terminal speaks UTF-8; LC_CTYPE and LANG follow",
    ),
    ("LC_CTYPE", "see LC_ALL"),
    ("LANG", "see LC_ALL"),
    (
        "HOME",
        "where ~ is, and the directories below if those are not set",
    ),
    (
        "XDG_DATA_HOME",
        "data lies in horde/ROLE below it [default: ~/.local/share]",
    ),
    (
        "XDG_CONFIG_HOME",
        "configuration lies in horde/ below it [default: ~/.config]",
    ),
    (
        "HORDE_CONTEXT",
        "the context to work in, whichever is in use; --context beats it",
    ),
    ("TMPDIR", "temporary files [default: /tmp]"),
    (
        "AWS_ACCESS_KEY_ID",
        "S3 credentials come from where Amazon's own tools look: variables AWS_*, profiles, roles",
    ),
    (
        "NOTIFY_SOCKET",
        "where systemd hears of a role: that it serves, reloads, stops",
    ),
    (
        "WATCHDOG_USEC",
        "within how many microseconds systemd wants a sign of life; WATCHDOG_PID: from whom",
    ),
    ("MINER_ADDRESS", "the executor's miner; what Python miners set"),
    ("EXECUTOR_TOKEN", "the executor's token; what Python miners set"),
];

/// Files that horde reads or writes, with what they hold.
pub const FILES: &[(&str, &str)] = &[
    (
        "$XDG_CONFIG_HOME/horde/horde.toml",
        "settings; with --dir DIR it is DIR/horde.toml, --config names another",
    ),
    (
        "$XDG_CONFIG_HOME/horde/contexts.toml",
        "named contexts, kept by `horde context`",
    ),
    ("$XDG_CONFIG_HOME/horde/keys.toml", "keys of the dashboard"),
    (
        "$XDG_DATA_HOME/horde/facilitator/facilitator.sqlite",
        "jobs, users, the ledger",
    ),
    (
        "$XDG_DATA_HOME/horde/validator/validator.sqlite",
        "jobs on their way, miners, receipts",
    ),
    (
        "$XDG_DATA_HOME/horde/miner/miner.sqlite",
        "offers, jobs, executors, receipts",
    ),
    (
        "$XDG_DATA_HOME/horde/ROLE/logs/ROLE.jsonl",
        "what a role says of itself, a JSON document a line; older ones end with .1, .2, …",
    ),
    (
        "/etc/systemd/system/horde-ROLE.service",
        "the unit of a role; with --user below $XDG_CONFIG_HOME/systemd/user",
    ),
    (
        "~/.bittensor/wallets/NAME/hotkeys/HOTKEY",
        "keys, as Bittensor's own tools write them",
    ),
];
