//! Output uploads: where a job's results go (wire-executor-miner §8).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Ordered text fields: form fields or headers.
pub type Fields = IndexMap<String, String>;

/// A zip of everything under `/output/`, sent as a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZipPost {
    /// Where to.
    pub url: String,
    /// Form fields that come before the file, in this order.
    #[serde(default)]
    pub form_fields: Option<Fields>,
}

/// A zip of everything under `/output/`, sent as a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZipPut {
    /// Where to.
    pub url: String,
}

/// One file of `/output/`, sent as a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SingleFilePost {
    /// Where to.
    pub url: String,
    /// Form fields that come before the file, in this order.
    #[serde(default)]
    pub form_fields: Option<Fields>,
    /// The file, below `/output/`.
    pub relative_path: String,
    /// Request headers.
    #[serde(default)]
    pub signed_headers: Option<Fields>,
}

/// One file of `/output/`, sent as a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SingleFilePut {
    /// Where to.
    pub url: String,
    /// The file, below `/output/`.
    pub relative_path: String,
    /// Request headers.
    #[serde(default)]
    pub signed_headers: Option<Fields>,
}

/// An upload of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "output_upload_type")]
pub enum SingleFileUpload {
    /// By form.
    #[serde(rename = "single_file_post")]
    Post(SingleFilePost),
    /// By body.
    #[serde(rename = "single_file_put")]
    Put(SingleFilePut),
}

impl SingleFileUpload {
    /// Returns the file's path below `/output/`, which is also its key in the results.
    pub fn relative_path(&self) -> &str {
        match self {
            Self::Post(post) => &post.relative_path,
            Self::Put(put) => &put.relative_path,
        }
    }
}

/// An upload of a zip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "output_upload_type")]
pub enum ZipUpload {
    /// By form.
    #[serde(rename = "zip_and_http_post")]
    Post(ZipPost),
    /// By body.
    #[serde(rename = "zip_and_http_put")]
    Put(ZipPut),
}

impl<'de> Deserialize<'de> for ZipUpload {
    /// The reference tries the two kinds without looking at the tag first; an object without a tag is a POST.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let tag = value.get("output_upload_type").cloned();
        match tag.as_ref().map(Value::as_str) {
            None | Some(Some("zip_and_http_post")) => serde_json::from_value(value).map(Self::Post),
            Some(Some("zip_and_http_put")) => serde_json::from_value(value).map(Self::Put),
            Some(_) => {
                return Err(D::Error::custom(
                    "system_output is neither zip_and_http_post nor zip_and_http_put",
                ));
            }
        }
        .map_err(D::Error::custom)
    }
}

/// Several files, and optionally a zip of the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MultiUpload {
    /// The named files.
    pub uploads: Vec<SingleFileUpload>,
    /// Everything that is not named.
    #[serde(default)]
    pub system_output: Option<ZipUpload>,
}

/// Any output upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "output_upload_type")]
pub enum OutputUpload {
    /// A zip by form.
    #[serde(rename = "zip_and_http_post")]
    ZipPost(ZipPost),
    /// A zip by body.
    #[serde(rename = "zip_and_http_put")]
    ZipPut(ZipPut),
    /// One file by form.
    #[serde(rename = "single_file_post")]
    SingleFilePost(SingleFilePost),
    /// One file by body.
    #[serde(rename = "single_file_put")]
    SingleFilePut(SingleFilePut),
    /// Several.
    #[serde(rename = "multi_upload")]
    Multi(MultiUpload),
}

/// Longest component of a path below `/output/`, in bytes: what file systems take.
const COMPONENT_BYTES_MAX: usize = 255;

/// Checks that an upload's path stays below `/output/` and has only one spelling.
///
/// The published wheels refuse anything else; older peers sent whatever they liked, so decoding lets it pass and
/// whoever makes or carries out an upload asks here.
pub fn check_relative_path(path: &str) -> Result<(), RelativePathError> {
    if path.is_empty() {
        return Err(RelativePathError::Empty);
    }
    if path.contains('\0') {
        return Err(RelativePathError::Nul);
    }
    if path.contains('\\') {
        return Err(RelativePathError::Backslash);
    }
    if path.starts_with('/') {
        return Err(RelativePathError::Absolute);
    }
    for component in path.split('/') {
        if matches!(component, "" | "." | "..") {
            return Err(RelativePathError::Component);
        }
        if component.len() > COMPONENT_BYTES_MAX {
            return Err(RelativePathError::Long);
        }
    }
    Ok(())
}

/// Why a path is no upload's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelativePathError {
    /// Nothing.
    #[error("must not be empty")]
    Empty,
    /// A NUL byte.
    #[error("must not contain NUL bytes")]
    Nul,
    /// A backslash.
    #[error("must not contain backslashes")]
    Backslash,
    /// From the root.
    #[error("must be relative, not absolute")]
    Absolute,
    /// A component that goes nowhere or up.
    #[error("must not contain empty, '.' or '..' components or end with '/'")]
    Component,
    /// A component longer than a file name can be.
    #[error("must not have components longer than {COMPONENT_BYTES_MAX} bytes")]
    Long,
}
