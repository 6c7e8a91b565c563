//! Input volumes: what a job finds under `/volume/` (wire-executor-miner §6).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A zip that travels inside the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InlineVolume {
    /// Base64 of the zip.
    pub contents: String,
    /// Where it is unpacked, below the volume's folder.
    #[serde(default)]
    pub relative_path: Option<String>,
}

/// A zip that is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZipUrlVolume {
    /// Its URL (the wire calls it `contents`).
    pub contents: String,
    /// Where it is unpacked, below the volume's folder.
    #[serde(default)]
    pub relative_path: Option<String>,
}

/// One file that is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SingleFileVolume {
    /// Its URL.
    pub url: String,
    /// Where it is put, below the volume's folder.
    pub relative_path: String,
}

/// The kind of a repository on the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RepoType {
    /// A model.
    Model,
    /// A data set.
    Dataset,
    /// A space.
    Space,
}

/// Glob patterns of wanted files: one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Patterns {
    /// One pattern.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// A snapshot of a Hugging Face repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HuggingfaceVolume {
    /// `owner/name`.
    pub repo_id: String,
    /// What it is; a model if absent.
    #[serde(default)]
    pub repo_type: Option<RepoType>,
    /// Branch, tag or commit.
    #[serde(default)]
    pub revision: Option<String>,
    /// Where it is put, below the volume's folder.
    #[serde(default)]
    pub relative_path: Option<String>,
    /// Which files; all if absent.
    #[serde(default)]
    pub allow_patterns: Option<Patterns>,
    /// The user's access token.
    #[serde(default)]
    pub token: Option<String>,
}

/// A volume that is not made of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "volume_type")]
pub enum SimpleVolume {
    /// A zip inside the message.
    #[serde(rename = "inline")]
    Inline(InlineVolume),
    /// A fetched zip.
    #[serde(rename = "zip_url")]
    ZipUrl(ZipUrlVolume),
    /// A fetched file.
    #[serde(rename = "single_file")]
    SingleFile(SingleFileVolume),
    /// A hub snapshot.
    #[serde(rename = "huggingface_volume")]
    Huggingface(HuggingfaceVolume),
}

/// Several volumes, one after another into the same folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MultiVolume {
    /// The parts; a multi volume cannot hold another.
    pub volumes: Vec<SimpleVolume>,
}

/// Any input volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "volume_type")]
pub enum Volume {
    /// A zip inside the message.
    #[serde(rename = "inline")]
    Inline(InlineVolume),
    /// A fetched zip.
    #[serde(rename = "zip_url")]
    ZipUrl(ZipUrlVolume),
    /// A fetched file.
    #[serde(rename = "single_file")]
    SingleFile(SingleFileVolume),
    /// A hub snapshot.
    #[serde(rename = "huggingface_volume")]
    Huggingface(HuggingfaceVolume),
    /// Several of the above.
    #[serde(rename = "multi_volume")]
    Multi(MultiVolume),
}

impl Volume {
    /// Returns the parts in order; a simple volume is its only part.
    pub fn into_parts(self) -> Vec<SimpleVolume> {
        match self {
            Self::Inline(volume) => vec![SimpleVolume::Inline(volume)],
            Self::ZipUrl(volume) => vec![SimpleVolume::ZipUrl(volume)],
            Self::SingleFile(volume) => vec![SimpleVolume::SingleFile(volume)],
            Self::Huggingface(volume) => vec![SimpleVolume::Huggingface(volume)],
            Self::Multi(multi) => multi.volumes,
        }
    }
}
