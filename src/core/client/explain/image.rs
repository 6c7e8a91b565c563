//! What an engine's words about an image or a command mean.

/// Why an image could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The registry does not have it, or not for everybody.
    Missing,
    /// It is no name of an image.
    Name,
    /// The registry lets this machine pull no more for now.
    RateLimit,
    /// The disk is full.
    Disk,
    /// The registry cannot be reached.
    Network,
    /// Nothing was said, as by executors of the reference.
    Unnamed,
    /// Something else.
    Other,
}

/// Words of engines and registries, lower case; the first that is found counts.
const WORDS: [(Trouble, &[&str]); 5] = [
    (Trouble::Disk, &["no space left", "bytes free", "disk quota"]),
    (
        Trouble::RateLimit,
        &["toomanyrequests", "rate limit", "too many requests"],
    ),
    (
        Trouble::Network,
        &[
            "no such host",
            "connection refused",
            "connection reset",
            "i/o timeout",
            "timeout exceeded",
            "deadline exceeded",
            "network is unreachable",
            "tls handshake",
            "x509",
            "dial tcp",
            "server misbehaving",
            "temporary failure",
            "service unavailable",
        ],
    ),
    (
        Trouble::Name,
        &["invalid reference", "is no name of an image", "must be lowercase"],
    ),
    (
        Trouble::Missing,
        &[
            "manifest unknown",
            "manifest for",
            "no such image",
            "not found",
            "does not exist",
            "access denied",
            "access to the resource is denied",
            "unauthorized",
            "authentication required",
            "forbidden",
            "no matching manifest",
        ],
    ),
];

/// Reads what an engine said about an image.
pub(super) fn trouble(told: &str) -> Trouble {
    if told.trim().is_empty() {
        return Trouble::Unnamed;
    }
    let told = told.to_lowercase();
    let found = WORDS
        .iter()
        .find(|(_, words)| words.iter().any(|word| told.contains(word)));
    found.map_or(Trouble::Other, |(trouble, _)| *trouble)
}

/// Tells whether an engine refused a container for its command.
pub(super) fn is_command_missing(told: &str) -> bool {
    let told = told.to_lowercase();
    let about_exec = told.contains("exec") || told.contains("starting container process");
    let why = [
        "executable file not found",
        "no such file or directory",
        "permission denied",
        "not a directory",
        "exec format error",
    ];
    about_exec && why.iter().any(|word| told.contains(word))
}

/// Returns what can be said about the form of an image's name.
pub(super) fn advice(image: &str) -> String {
    if image.contains("@sha256:") {
        return format!("the digest of {image} must be one that the registry still has");
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') {
        format!(
            "pin it: {image} has no digest, so the registry may have another image by this name, or none any more"
        )
    } else {
        format!("name a tag or a digest: {image} has none, so {image}:latest is what is looked for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_about_an_image_is_told_apart() {
        for (told, expected) in [
            ("", Trouble::Unnamed),
            ("manifest for x:1 not found: manifest unknown", Trouble::Missing),
            (
                "pull access denied for x, repository does not exist",
                Trouble::Missing,
            ),
            ("No such image: x:1", Trouble::Missing),
            (
                "toomanyrequests: You have reached your pull rate limit",
                Trouble::RateLimit,
            ),
            (
                "dial tcp: lookup registry.example: no such host",
                Trouble::Network,
            ),
            ("the disk of /d has 5 bytes free; a pull needs 9", Trouble::Disk),
            ("invalid reference format", Trouble::Name),
            ("the engine is on fire", Trouble::Other),
        ] {
            assert_eq!(trouble(told), expected, "{told}");
        }
    }

    #[test]
    fn a_missing_command_is_told_from_other_refusals() {
        for told in [
            "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH: unknown",
            "starting container process caused: exec: \"/x\": stat /x: no such file or directory",
            "exec: \"/etc/passwd\": permission denied",
        ] {
            assert!(is_command_missing(told), "{told}");
        }
        assert!(!is_command_missing("could not select device driver"));
        assert!(!is_command_missing("mkdir /x: permission denied"));
    }

    #[test]
    fn an_image_without_digest_or_tag_is_told_so() {
        assert!(advice("busybox").contains("busybox:latest"));
        assert!(advice("h:5000/busybox").contains("h:5000/busybox:latest"));
        assert!(advice("busybox:1").contains("no digest"));
        assert!(advice("busybox@sha256:00").contains("still has"));
    }
}
