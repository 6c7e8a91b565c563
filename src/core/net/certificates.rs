//! TLS of a listener: a certificate and its key from files, which are read again when they change.
//!
//! A connection keeps the certificate that it began with, so nothing is cut off by a change. Files that do not fit
//! together, as while they are being replaced one after the other, change nothing.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::core::causes::Causes;
use crate::core::tasks::Tasks;

/// Most bytes of a file of certificates or of a key.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file is larger than any certificate.
    #[error("{} has more than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file holds nothing of what it should.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What the parser says.
        source: pem::Error,
    },
    /// The certificate and the key cannot be used together.
    #[error("the certificate {} and the key {} cannot be used together", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
}

/// The certificate of a listener, as it is now; clones are the same.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Loaded>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("certificate", &self.0.certificate)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// Of the contents of both files.
    fingerprint: u64,
}

impl Certificates {
    /// Reads a certificate with the chain above it, and its key, from two PEM files. Blocks for as long as that takes.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let files = Files::read(certificate, key)?;
        let loaded = Loaded {
            config: files.config(certificate, key)?,
            fingerprint: files.fingerprint(),
        };
        Ok(Self(Arc::new(Inner {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(loaded),
        })))
    }

    /// Reads the files again whenever they have changed, until `tasks` is told to stop.
    pub async fn watch(self, tasks: Tasks) {
        let mut turns = tasks.turns(LOOK_EVERY);
        // What was refused is told once.
        let mut refused = None;
        while turns.next().await {
            let looking = self.clone();
            let looked = tokio::task::spawn_blocking(move || looking.look(refused)).await;
            match looked {
                Ok(fingerprint) => refused = fingerprint,
                Err(error) => tracing::error!(%error, "cannot look at the certificate's files"),
            }
        }
    }

    /// Looks at the files; returns the fingerprint of what it refused.
    fn look(&self, refused: Option<u64>) -> Option<u64> {
        let Inner { certificate, key, .. } = &*self.0;
        let files = match Files::read(certificate, key) {
            Ok(files) => files,
            Err(error) => {
                if refused != Some(0) {
                    tracing::warn!(error = %Causes(&error), "the certificate in use is kept");
                }
                return Some(0);
            }
        };
        let fingerprint = files.fingerprint();
        if fingerprint == self.current().fingerprint {
            return None;
        }
        match files.config(certificate, key) {
            Ok(config) => {
                *self.0.current.write().unwrap_or_else(PoisonError::into_inner) =
                    Loaded { config, fingerprint };
                tracing::info!(certificate = %certificate.display(), "new connections get the new certificate");
                None
            }
            Err(error) => {
                if refused != Some(fingerprint) {
                    tracing::warn!(error = %Causes(&error), "the certificate in use is kept");
                }
                Some(fingerprint)
            }
        }
    }

    fn current(&self) -> Loaded {
        self.0
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current().config).accept(stream).await
    }
}

struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        Ok(Self {
            certificate: read(certificate)?,
            key: read(key)?,
        })
    }

    /// Tells two contents apart; 0 stands for none.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for content in [&self.certificate, &self.key] {
            hasher.write_usize(content.len());
            hasher.write(content);
        }
        hasher.finish().max(1)
    }

    fn config(&self, certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, CertificateError> {
        let no = |path: &Path, what| {
            let path = path.to_owned();
            move |source| CertificateError::Pem { path, what, source }
        };
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| {
                if chain.is_empty() {
                    Err(pem::Error::NoItemsFound)
                } else {
                    Ok(chain)
                }
            })
            .map_err(no(certificate, "certificate"))?;
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(no(key, "private key"))?;
        let mismatch = |source| CertificateError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(mismatch)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(mismatch)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let failed = |source| CertificateError::File {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        let path = path.to_owned();
        return Err(CertificateError::TooLarge { path });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let files = (
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
        );
        fs::write(&files.0, made.cert.pem()).unwrap();
        fs::write(&files.1, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn files_that_cannot_be_used_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path(), "one");
        let (_, other_key) = write(folder.path(), "two");
        let refusal = |certificate: &Path, key: &Path| {
            let error = Certificates::load(certificate, key).unwrap_err();
            Causes(&error).to_string()
        };
        let missing = refusal(&certificate, &folder.path().join("none"));
        assert!(
            missing.contains("none") && missing.contains("No such file"),
            "{missing}"
        );
        assert!(refusal(&key, &key).contains("holds no certificate"));
        assert!(refusal(&certificate, &certificate).contains("holds no private key"));
        assert!(refusal(&certificate, &other_key).contains("cannot be used together"));
        let large = folder.path().join("large");
        fs::File::create(&large)
            .unwrap()
            .set_len(FILE_BYTES_MAX + 1)
            .unwrap();
        assert!(refusal(&large, &key).contains("more than"));
    }

    #[test]
    fn a_new_pair_is_taken_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path(), "one");
        let (new_certificate, new_key) = write(folder.path(), "two");
        let certificates = Certificates::load(&certificate, &key).unwrap();
        let before = certificates.current();
        assert_eq!(certificates.look(None), None);
        fs::copy(new_certificate, &certificate).unwrap();
        let refused = certificates.look(None);
        assert!(refused.is_some());
        assert_eq!(certificates.look(refused), refused);
        assert!(Arc::ptr_eq(&certificates.current().config, &before.config));
        fs::copy(new_key, &key).unwrap();
        assert_eq!(certificates.look(refused), None);
        assert!(!Arc::ptr_eq(&certificates.current().config, &before.config));
        fs::remove_file(&key).unwrap();
        assert_eq!(certificates.look(None), Some(0));
    }
}
