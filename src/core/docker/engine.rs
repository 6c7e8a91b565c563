//! A real Docker engine, reached over its Unix socket or over TCP.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error as ClientError;
use bollard::models::{ContainerCreateBody, ContainerCreateResponse};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, CreateImageOptionsBuilder,
    InspectContainerOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptions, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker, body_try_stream};
use futures_util::StreamExt;
use tokio::sync::OnceCell;
use tokio_util::io::ReaderStream;

use super::info::{EngineInfo, EngineVersion};
use super::limits::{ContainerSpec, container_body};
use super::place::HostMount;
use super::reference::ImageReference;
use super::{
    ContainerId, ContainerState, Engine, EngineError, FoundContainer, ImageFacts, ImageId, LABEL_JOB,
    LABEL_TOKEN, Label, OutputChunk, OutputStream, Signal, StreamName,
};

/// The longest that the engine may think before it begins an answer, in seconds. Creating a container from a large
/// image on a slow disk takes many seconds; streams that have begun are not bounded by this.
const ANSWER_SECONDS_MAX: u64 = 120;

/// The longest that a pull or an import may be silent at its start, in seconds.
const IMAGE_SECONDS_MAX: u64 = 1800;

/// The size of the pieces in which an image is handed to the engine, in bytes.
const IMPORT_CHUNK_BYTES: usize = 256 * 1024;

/// How the engine is reached.
#[derive(Debug)]
enum Way {
    Unix(PathBuf),
    Tcp(Option<TlsFiles>),
}

/// Files for TLS to an engine, each PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signed the engine's certificate.
    pub ca: PathBuf,
    /// The certificate as whose holder we speak.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A Docker engine behind a Unix socket or a TCP port. Nothing is opened before the first call.
#[derive(Debug)]
pub struct Bollard {
    address: String,
    way: Way,
    client: OnceCell<Docker>,
}

impl Bollard {
    /// Parses an address such as `unix:///var/run/docker.sock`; does not touch the engine.
    pub fn new(address: &str) -> Result<Self, EngineError> {
        let socket = match address.strip_prefix("unix://") {
            Some(path) => path,
            None if address.starts_with('/') => address,
            None => {
                return Err(EngineError::UnsupportedAddress {
                    address: address.to_owned(),
                });
            }
        };
        if !socket.starts_with('/') {
            return Err(EngineError::UnsupportedAddress {
                address: address.to_owned(),
            });
        }
        Ok(Self {
            address: address.to_owned(),
            way: Way::Unix(PathBuf::from(socket)),
            client: OnceCell::new(),
        })
    }

    /// Makes a client of an engine at `host:port`, with TLS or plain; does not touch the engine.
    pub fn tcp(address: &str, tls: Option<TlsFiles>) -> Self {
        Self {
            address: format!("tcp://{address}"),
            way: Way::Tcp(tls),
            client: OnceCell::new(),
        }
    }

    /// Returns the path of the engine's socket; none when it is reached over TCP.
    pub fn socket(&self) -> Option<&Path> {
        match &self.way {
            Way::Unix(socket) => Some(socket),
            Way::Tcp(_) => None,
        }
    }

    fn connect(&self) -> Result<Docker, ClientError> {
        match &self.way {
            Way::Unix(socket) => {
                Docker::connect_with_unix(&socket.to_string_lossy(), ANSWER_SECONDS_MAX, API_DEFAULT_VERSION)
            }
            Way::Tcp(None) => {
                Docker::connect_with_http(&self.address, ANSWER_SECONDS_MAX, API_DEFAULT_VERSION)
            }
            Way::Tcp(Some(TlsFiles { ca, cert, key })) => Docker::connect_with_ssl(
                &self.address,
                key,
                cert,
                ca,
                ANSWER_SECONDS_MAX,
                API_DEFAULT_VERSION,
            ),
        }
    }

    /// Returns the client, with the API version settled between both sides at the first call: engines refuse
    /// clients that are newer than they are, and new engines refuse old ones.
    pub(super) async fn client(&self) -> Result<&Docker, EngineError> {
        self.client
            .get_or_try_init(|| async {
                let client = self
                    .connect()
                    .map_err(|error| self.explain("open a client", error))?;
                client
                    .negotiate_version()
                    .await
                    .map_err(|error| self.explain("tell its version", error))
            })
            .await
    }

    async fn create_from(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse, EngineError> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.client()
            .await?
            .create_container(Some(options), body)
            .await
            .map_err(|error| self.explain("create the container", error))
    }

    async fn patient_client(&self) -> Result<Docker, EngineError> {
        Ok(self
            .client()
            .await?
            .clone()
            .with_timeout(Duration::from_secs(IMAGE_SECONDS_MAX)))
    }

    /// Turns the client's error into ours; asks the socket itself why, when nobody answered.
    pub(super) fn explain(&self, action: &'static str, error: ClientError) -> EngineError {
        match error {
            ClientError::DockerResponseServerError {
                status_code: 404,
                message,
            } => EngineError::NotFound { action, message },
            ClientError::DockerResponseServerError { status_code, message } => EngineError::Refused {
                action,
                status: status_code,
                message,
            },
            ClientError::DockerStreamError { error } => EngineError::Refused {
                action,
                status: 200,
                message: error,
            },
            ClientError::RequestTimeoutError => EngineError::Broken {
                action,
                message: format!("no answer within {ANSWER_SECONDS_MAX} s"),
            },
            other => {
                // Nobody answers, or somebody does not as an engine should.
                if let Some(Err(cause)) = self.socket().map(UnixStream::connect) {
                    return self.unreachable(&cause);
                }
                EngineError::Broken {
                    action,
                    message: with_sources(&other),
                }
            }
        }
    }

    fn unreachable(&self, cause: &io::Error) -> EngineError {
        let remedy = match cause.kind() {
            io::ErrorKind::NotFound => {
                "install it (Debian, Ubuntu: apt-get install docker.io) or start it (systemctl start docker)"
            }
            io::ErrorKind::PermissionDenied => {
                "add this user to the group docker (usermod -aG docker USER) and log in again"
            }
            _ => "start it (systemctl start docker, or dockerd)",
        };
        EngineError::Unreachable {
            address: self.address.clone(),
            cause: cause.to_string(),
            remedy,
        }
    }
}

#[async_trait]
impl Engine for Bollard {
    async fn version(&self) -> Result<EngineVersion, EngineError> {
        let version = self
            .client()
            .await?
            .version()
            .await
            .map_err(|error| self.explain("tell its version", error))?;
        Ok(version.into())
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let info = self
            .client()
            .await?
            .info()
            .await
            .map_err(|error| self.explain("tell about itself", error))?;
        Ok(info.into())
    }

    async fn find_image(&self, image: &ImageReference) -> Result<Option<ImageId>, EngineError> {
        match self.client().await?.inspect_image(image.as_str()).await {
            Ok(found) => Ok(found.id.map(ImageId::new)),
            Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.explain("look for the image", error)),
        }
    }

    async fn inspect_image(&self, image: &ImageReference) -> Result<Option<ImageFacts>, EngineError> {
        let found = match self.client().await?.inspect_image(image.as_str()).await {
            Ok(found) => found,
            Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(self.explain("look for the image", error)),
        };
        Ok(found.id.map(|id| ImageFacts {
            id: ImageId::new(id),
            digests: found.repo_digests.unwrap_or_default(),
            bytes: found
                .size
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or_default(),
        }))
    }

    async fn registry_digest(&self, image: &ImageReference) -> Result<String, EngineError> {
        const ACTION: &str = "ask the registry for the image";
        let found = self
            .client()
            .await?
            .inspect_registry_image(image.as_str(), None)
            .await
            .map_err(|error| self.explain(ACTION, error))?;
        found.descriptor.digest.ok_or_else(|| EngineError::Broken {
            action: ACTION,
            message: "it has no digest".to_owned(),
        })
    }

    async fn pull(&self, image: &ImageReference) -> Result<(), EngineError> {
        let (repository, tag) = image.repository_and_tag();
        let options = CreateImageOptionsBuilder::default()
            .from_image(repository)
            .tag(tag)
            .build();
        let client = self.patient_client().await?;
        let mut progress = client.create_image(Some(options), None, None);
        while let Some(step) = progress.next().await {
            step.map_err(|error| self.explain("pull the image", error))?;
        }
        Ok(())
    }

    async fn import(
        &self,
        root_fs: tokio::fs::File,
        image: &ImageReference,
        changes: Vec<String>,
    ) -> Result<ImageId, EngineError> {
        let (repository, tag) = image.repository_and_tag();
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(repository)
            .tag(tag)
            .changes(changes)
            .build();
        let body = body_try_stream(ReaderStream::with_capacity(root_fs, IMPORT_CHUNK_BYTES));
        let client = self.patient_client().await?;
        let mut progress = client.create_image(Some(options), Some(body), None);
        while let Some(step) = progress.next().await {
            step.map_err(|error| self.explain("import the image", error))?;
        }
        self.find_image(image).await?.ok_or_else(|| EngineError::Broken {
            action: "import the image",
            message: "the image is not there afterwards".to_owned(),
        })
    }

    async fn remove_image(&self, image: &ImageReference) -> Result<(), EngineError> {
        match self
            .client()
            .await?
            .remove_image(image.as_str(), None::<RemoveImageOptions>, None)
            .await
        {
            Ok(_) | Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.explain("remove the image", error)),
        }
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let body = container_body(spec);
        let created = match self.create_from(&spec.name, body.clone()).await {
            Err(error) if is_about_quotas(&error) => {
                tracing::info!(
                    container = %spec.name,
                    "the engine's file system has no quotas; what the container writes is watched instead"
                );
                self.create_from(&spec.name, without_quota(body)).await
            }
            result => result,
        }?;
        for warning in &created.warnings {
            tracing::warn!(container = %spec.name, warning, "docker warned about a container");
        }
        Ok(ContainerId::new(created.id))
    }

    async fn attach(&self, container: &ContainerId) -> Result<OutputStream, EngineError> {
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = self
            .client()
            .await?
            .attach_container(container.as_str(), Some(options))
            .await
            .map_err(|error| self.explain("attach to the container", error))?;
        let chunks = attached.output.filter_map(|item| async move {
            match item {
                Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => Some(Ok(OutputChunk {
                    stream: StreamName::Stdout,
                    bytes: message,
                })),
                Ok(LogOutput::StdErr { message }) => Some(Ok(OutputChunk {
                    stream: StreamName::Stderr,
                    bytes: message,
                })),
                Ok(LogOutput::StdIn { .. }) => None,
                Err(error) => Some(Err(EngineError::Broken {
                    action: "read the container's output",
                    message: error.to_string(),
                })),
            }
        });
        Ok(chunks.boxed())
    }

    async fn start(&self, container: &ContainerId) -> Result<(), EngineError> {
        self.client()
            .await?
            .start_container(container.as_str(), None)
            .await
            .map_err(|error| self.explain("start the container", error))
    }

    async fn wait(&self, container: &ContainerId) -> Result<i64, EngineError> {
        let options = WaitContainerOptionsBuilder::default()
            .condition("not-running")
            .build();
        let mut answers = self
            .client()
            .await?
            .wait_container(container.as_str(), Some(options));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // The client calls every code above zero an error; only one with words is.
            Some(Err(ClientError::DockerContainerWaitError { error, code })) if error.is_empty() => Ok(code),
            Some(Err(error)) => Err(self.explain("wait for the container", error)),
            None => Err(EngineError::Broken {
                action: "wait for the container",
                message: "the engine closed the connection".to_owned(),
            }),
        }
    }

    async fn inspect(&self, container: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        let options = None::<InspectContainerOptions>;
        let found = match self
            .client()
            .await?
            .inspect_container(container.as_str(), options)
            .await
        {
            Ok(found) => found.state.unwrap_or_default(),
            Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(self.explain("look at the container", error)),
        };
        let is_running = found.running.unwrap_or_default();
        let is_new = found.status.is_some_and(|status| status.to_string() == "created");
        Ok(Some(ContainerState {
            is_running,
            pid: found
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid > 0),
            // The engine says 0 of one that has not run yet, too.
            exit_code: found.exit_code.filter(|_| !is_running && !is_new),
            is_out_of_memory: found.oom_killed.unwrap_or_default(),
            error: found.error.unwrap_or_default(),
        }))
    }

    async fn host_mounts(&self, container: &ContainerId) -> Result<Option<Vec<HostMount>>, EngineError> {
        let options = None::<InspectContainerOptions>;
        let mounts = match self
            .client()
            .await?
            .inspect_container(container.as_str(), options)
            .await
        {
            Ok(found) => found.mounts.unwrap_or_default(),
            Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(self.explain("look at the container", error)),
        };
        let described = mounts.into_iter().filter_map(|mount| {
            Some(HostMount {
                source: mount.source.filter(|source| !source.is_empty())?.into(),
                target: mount.destination?.into(),
            })
        });
        Ok(Some(described.collect()))
    }

    async fn written_bytes(&self, container: &ContainerId) -> Result<u64, EngineError> {
        let found = self
            .client()
            .await?
            .inspect_container(container.as_str(), Some(InspectContainerOptions { size: true }))
            .await
            .map_err(|error| self.explain("measure the container", error))?;
        let bytes = found.size_rw.unwrap_or_default();
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    async fn kill(&self, container: &ContainerId, signal: Signal) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::default()
            .signal(signal.as_str())
            .build();
        match self
            .client()
            .await?
            .kill_container(container.as_str(), Some(options))
            .await
        {
            // 409: it does not run.
            Ok(())
            | Err(ClientError::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(error) => Err(self.explain("signal the container", error)),
        }
    }

    async fn stop(&self, container: &ContainerId, grace_seconds: u32) -> Result<(), EngineError> {
        let grace = i32::try_from(grace_seconds).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(grace).build();
        match self
            .client()
            .await?
            .stop_container(container.as_str(), Some(options))
            .await
        {
            // 304: it did not run.
            Ok(())
            | Err(ClientError::DockerResponseServerError {
                status_code: 304 | 404,
                ..
            }) => Ok(()),
            Err(error) => Err(self.explain("stop the container", error)),
        }
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        match self
            .client()
            .await?
            .remove_container(container.as_str(), Some(options))
            .await
        {
            // 409: somebody (the engine's own auto-removal) is at it already.
            Ok(())
            | Err(ClientError::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(error) => Err(self.explain("remove the container", error)),
        }
    }

    async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        match self.client().await?.remove_network(name).await {
            Ok(()) | Err(ClientError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.explain("remove the network", error)),
        }
    }

    async fn list(&self, label: Label<'_>) -> Result<Vec<FoundContainer>, EngineError> {
        let filters = HashMap::from([("label", vec![label.to_string()])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let found = self
            .client()
            .await?
            .list_containers(Some(options))
            .await
            .map_err(|error| self.explain("list the containers", error))?;
        let described = found.into_iter().filter_map(|container| {
            // The engine has filtered already; asked again, since removal is what follows.
            let labels = container.labels.unwrap_or_default();
            if labels.get(label.key()).map(String::as_str) != Some(label.value()) {
                return None;
            }
            let is_running = container
                .state
                .is_some_and(|state| state.to_string() == "running");
            Some(FoundContainer {
                id: ContainerId::new(container.id?),
                name: container
                    .names
                    .and_then(|names| names.into_iter().next())
                    .map(|name| name.trim_start_matches('/').to_owned())
                    .unwrap_or_default(),
                job: labels.get(LABEL_JOB).cloned(),
                token: labels.get(LABEL_TOKEN).cloned(),
                is_running,
            })
        });
        Ok(described.collect())
    }
}

/// Returns an error with its sources, in one line: the client's own words for a lost connection say nothing.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

/// Returns whether a container was refused since the file system of its root keeps no quotas.
fn is_about_quotas(error: &EngineError) -> bool {
    matches!(error, EngineError::Refused { message, .. } if message.contains("storage-opt"))
}

fn without_quota(mut body: ContainerCreateBody) -> ContainerCreateBody {
    if let Some(host) = &mut body.host_config {
        host.storage_opt = None;
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_sockets_are_addresses() {
        assert!(Bollard::new("unix:///var/run/docker.sock").is_ok());
        assert!(Bollard::new("/run/docker.sock").is_ok());
        for address in [
            "tcp://127.0.0.1:2375",
            "unix://docker.sock",
            "",
            "npipe:////./pipe/x",
        ] {
            assert!(
                matches!(Bollard::new(address), Err(EngineError::UnsupportedAddress { .. })),
                "{address}"
            );
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/no.sock", folder.path().display());
        let error = Bollard::new(&address).unwrap().version().await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, EngineError::Unreachable { .. }), "{text}");
        assert!(
            text.contains("Docker does not answer at") && text.contains("install it"),
            "{text}"
        );
    }
}
