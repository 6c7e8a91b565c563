//! S3: presigned addresses for a job's inputs and outputs, and uploads of inputs that no request can hold.
//!
//! Credentials come from where the vendor's own tools look for them (environment, profile, the machine's role) and
//! never leave this process: a job gets addresses that open one object for a while. Making such an address is
//! arithmetic; nothing is asked of the server.

mod place;
mod upload;
mod wire;

use std::fmt;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    ProvideCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

pub use self::place::{Place, PlaceError};
pub use self::upload::{FILE_BYTES_MAX, Resume, UploadError};
use self::wire::Wire;
use crate::core::net::http;

/// How long a presigned address is good, unless the user says otherwise: 6 h.
pub const EXPIRES_DEFAULT: Duration = Duration::from_secs(6 * 3600);

/// The longest that a signature of this kind can be good: 7 days.
pub const EXPIRES_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The region of servers that have none.
const NO_REGION: &str = "us-east-1";

/// Characters of a foreign answer that an error quotes.
const QUOTED_CHARS_MAX: usize = 300;

/// Which service, as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the service is; the vendor's own if absent.
    pub endpoint: Option<String>,
    /// Its region; else from the environment or the profile.
    pub region: Option<String>,
    /// Which profile of the configuration files; else from the environment.
    pub profile: Option<String>,
    /// How long presigned addresses are good, 1 s to 7 days; [`EXPIRES_DEFAULT`] if absent.
    pub expires: Option<Duration>,
}

/// Why an S3 service cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum S3Error {
    /// The endpoint is none.
    #[error("{0:?} is no address of an S3 service: it does not begin with http:// or https://")]
    Endpoint(String),
    /// The service cannot be chosen without a region.
    #[error("no region is known for S3")]
    NoRegion,
    /// No credentials.
    #[error("no credentials for S3 were found: {0}")]
    NoCredentials(String),
    /// The HTTP client could not be made.
    #[error(transparent)]
    SetUp(#[from] http::ClientError),
    /// The address cannot be signed.
    #[error("cannot presign {place}: {reason}")]
    Presign {
        /// For what.
        place: Place,
        /// Why.
        reason: String,
    },
    /// The service knows neither the credentials nor their signature.
    #[error("the S3 service refuses the credentials: {code}: {message}")]
    Credentials {
        /// The service's code.
        code: String,
        /// The service's words.
        message: String,
    },
    /// There is no such bucket.
    #[error("the S3 service has no bucket {0:?}")]
    NoBucket(String),
    /// The service refused.
    #[error("the S3 service refused {doing}: {code}: {message}")]
    Refused {
        /// What was tried.
        doing: String,
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// The service did not answer.
    #[error("no answer from the S3 service: {0}")]
    Unreachable(String),
}

/// The codes by which services say that they do not know somebody.
const CREDENTIAL_CODES: [&str; 7] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "NotSignedUp",
    "InvalidSecurity",
];

impl S3Error {
    /// Puts a failed call in people's words.
    fn of<E>(doing: &str, place: &Place, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let Some(service) = error.as_service_error() else {
            return match error {
                SdkError::ResponseError(_) => Self::Refused {
                    doing: format!("{doing} {place}"),
                    code: "an answer that cannot be read".to_owned(),
                    message: cut(&DisplayErrorContext(error).to_string()),
                },
                error => Self::Unreachable(cut(&DisplayErrorContext(error).to_string())),
            };
        };
        let status = error.raw_response().map(|answer| answer.status().as_u16());
        let code = service.code().map_or_else(
            || status.map_or_else(|| "no code".to_owned(), |status| format!("HTTP status {status}")),
            cut,
        );
        let message = service.message().map_or_else(|| "no words".to_owned(), cut);
        if CREDENTIAL_CODES.contains(&code.as_str()) {
            return Self::Credentials { code, message };
        }
        if code == "NoSuchBucket" {
            return Self::NoBucket(place.bucket.clone());
        }
        Self::Refused {
            doing: format!("{doing} {place}"),
            code,
            message,
        }
    }
}

fn cut(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(QUOTED_CHARS_MAX)
        .collect()
}

/// An S3 service and somebody who may use it.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    endpoint: Option<String>,
    expires: Duration,
}

impl fmt::Debug for S3 {
    /// Without credentials.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3")
            .field("endpoint", &self.endpoint)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl S3 {
    /// Finds region and credentials, and asks nothing of the service yet.
    pub async fn open(options: Options) -> Result<Self, S3Error> {
        let wire = Wire::new()?;
        // The machine's own service is no place to ask for a region: everywhere else it costs seconds to be absent.
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &options.profile {
            profile = profile.profile_name(name);
        }
        let region = RegionProviderChain::first_try(options.region.map(Region::new))
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(profile.build())
            .region()
            .await;
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(wire);
        if let Some(name) = &options.profile {
            loader = loader.profile_name(name);
        }
        if let Some(endpoint) = &options.endpoint {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                return Err(S3Error::Endpoint(endpoint.clone()));
            }
            loader = loader.endpoint_url(endpoint.trim_end_matches('/'));
        }
        loader = loader.region(region.clone().unwrap_or(Region::new(NO_REGION)));
        let shared = loader.load().await;
        // Also AWS_ENDPOINT_URL and `endpoint_url` of the profile name one.
        let endpoint = shared.endpoint_url().map(str::to_owned);
        if region.is_none() && endpoint.is_none() {
            return Err(S3Error::NoRegion);
        }
        let provider = shared
            .credentials_provider()
            .ok_or_else(|| S3Error::NoCredentials("there is nobody to ask".to_owned()))?;
        provider
            .provide_credentials()
            .await
            .map_err(|error| S3Error::NoCredentials(cut(&DisplayErrorContext(error).to_string())))?;
        let config = aws_sdk_s3::config::Builder::from(&shared)
            // A bucket as a part of the host's name takes a name server that knows it.
            .force_path_style(endpoint.is_some())
            // A checksum in the signature would have to be known before the job has run.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Self {
            client: Client::from_conf(config),
            endpoint,
            expires: options.expires.unwrap_or(EXPIRES_DEFAULT).min(EXPIRES_MAX),
        })
    }

    /// Returns how long presigned addresses are good.
    pub fn expires(&self) -> Duration {
        self.expires
    }

    /// Returns an address that reads one object.
    pub async fn presign_get(&self, place: &Place) -> Result<String, S3Error> {
        let request = self.client.get_object().bucket(&place.bucket).key(&place.key);
        match request.presigned(self.lifetime(place)?).await {
            Ok(signed) => Ok(signed.uri().to_owned()),
            Err(error) => Err(presign_error(place, &DisplayErrorContext(error))),
        }
    }

    /// Returns an address that writes one object by PUT; it needs no header but the length.
    pub async fn presign_put(&self, place: &Place) -> Result<String, S3Error> {
        let request = self.client.put_object().bucket(&place.bucket).key(&place.key);
        match request.presigned(self.lifetime(place)?).await {
            Ok(signed) => Ok(signed.uri().to_owned()),
            Err(error) => Err(presign_error(place, &DisplayErrorContext(error))),
        }
    }

    /// Returns the place that an address of this service was made for.
    pub fn place_of(&self, url: &str) -> Option<Place> {
        Place::of_url(url, self.endpoint.as_deref())
    }

    /// Asks the service whether it knows the credentials and the bucket; returns whether the object is there.
    ///
    /// Who may write but not list is let pass, since the service knows them; then nobody can tell what is there.
    pub async fn check(&self, place: &Place) -> Result<Option<bool>, S3Error> {
        let asked = self
            .client
            .list_objects_v2()
            .bucket(&place.bucket)
            .prefix(&place.key)
            .max_keys(1)
            .send()
            .await;
        match asked.map_err(|error| S3Error::of("a look at", place, error)) {
            // The key itself comes before all that begin with it.
            Ok(list) => Ok(Some(
                list.contents()
                    .first()
                    .is_some_and(|object| object.key() == Some(&place.key)),
            )),
            Err(error @ (S3Error::Credentials { .. } | S3Error::NoBucket(_) | S3Error::Unreachable(_))) => {
                Err(error)
            }
            Err(_) => Ok(None),
        }
    }

    fn lifetime(&self, place: &Place) -> Result<PresigningConfig, S3Error> {
        PresigningConfig::expires_in(self.expires)
            .map_err(|error| presign_error(place, &DisplayErrorContext(error)))
    }
}

fn presign_error(place: &Place, reason: &impl fmt::Display) -> S3Error {
    S3Error::Presign {
        place: place.clone(),
        reason: cut(&reason.to_string()),
    }
}
