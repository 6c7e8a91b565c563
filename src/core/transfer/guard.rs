//! HTTP for jobs: a client that reaches no address which the policy refuses, by whatever road.
//!
//! There are three roads to an address: a name, which is resolved here and connected only to what passed; an address
//! written in the URL itself, which never reaches a resolver; and a redirect, each hop of which is one of the two
//! again. Proxies of the environment are not used: they would resolve and connect where nobody looks.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use tokio::sync::OnceCell;

use crate::core::net::http::{ClientOptions, Redirects, builder};

use super::address::{Policy, Refused};

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Why a hop is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// It leads to a refused address.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is neither http nor https, or names no server.
    #[error("it is not an http or https address")]
    BadUrl,
    /// It gives up the encryption that the hop before had.
    #[error("the server redirected from https to http, which is not followed")]
    Downgrade,
    /// It is one redirect too many.
    #[error("the server redirected more than {max} times")]
    TooManyRedirects {
        /// The bound.
        max: usize,
    },
}

/// Turns a name into addresses.
pub(super) type Lookup = fn(String) -> futures_util::future::BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// An HTTP client under a policy, made when it is first needed: reading the system's certificates takes time that
/// most jobs should not pay for.
#[derive(Debug)]
pub(super) struct GuardedClient {
    options: ClientOptions,
    policy: Arc<Policy>,
    lookup: Lookup,
    client: OnceCell<reqwest::Client>,
}

impl GuardedClient {
    pub(super) fn new(options: ClientOptions, policy: Arc<Policy>) -> Self {
        Self::with_lookup(options, policy, system_lookup)
    }

    fn with_lookup(options: ClientOptions, policy: Arc<Policy>, lookup: Lookup) -> Self {
        Self {
            options,
            policy,
            lookup,
            client: OnceCell::new(),
        }
    }

    /// Returns the policy that the client keeps to.
    pub(super) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Returns the client. It must be given URLs that [`parse_url`] has passed.
    pub(super) async fn get(&self) -> io::Result<&reqwest::Client> {
        self.client
            .get_or_try_init(|| async {
                let (options, policy, lookup) = (self.options.clone(), Arc::clone(&self.policy), self.lookup);
                tokio::task::spawn_blocking(move || build(&options, &policy, lookup))
                    .await
                    .map_err(io::Error::other)?
                    .map_err(io::Error::other)
            })
            .await
    }
}

fn build(options: &ClientOptions, policy: &Arc<Policy>, lookup: Lookup) -> reqwest::Result<reqwest::Client> {
    let redirects = match options.redirects {
        Redirects::Refuse => redirect::Policy::none(),
        Redirects::Follow(max) => {
            let policy = Arc::clone(policy);
            redirect::Policy::custom(move |attempt| {
                match hop(&policy, attempt.previous(), attempt.url(), max) {
                    Ok(()) => attempt.follow(),
                    Err(error) => attempt.error(error),
                }
            })
        }
    };
    builder(options)
        .no_proxy()
        .redirect(redirects)
        .dns_resolver(Arc::new(Resolver {
            policy: Arc::clone(policy),
            lookup,
        }))
        .build()
}

/// Reads a job's URL; one that names a refused address is none for us.
pub(super) fn parse_url(policy: &Policy, url: &str) -> Result<Url, HopError> {
    let url: Url = url.parse().map_err(|_error| HopError::BadUrl)?;
    check_written(policy, &url)?;
    Ok(url)
}

/// Decides on a redirect.
fn hop(policy: &Policy, previous: &[Url], next: &Url, max: usize) -> Result<(), HopError> {
    // The first of them is the job's own address.
    if previous.len() > max {
        return Err(HopError::TooManyRedirects { max });
    }
    if previous.last().is_some_and(|last| last.scheme() == "https") && next.scheme() == "http" {
        return Err(HopError::Downgrade);
    }
    check_written(policy, next)
}

/// Checks what can be known of a URL without a resolver.
fn check_written(policy: &Policy, url: &Url) -> Result<(), HopError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(HopError::BadUrl);
    }
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or(HopError::BadUrl)?;
    // The parser has brought every spelling of an address into its plain form.
    let written = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = written.parse::<IpAddr>() {
        policy.check(written, address)?;
    }
    Ok(())
}

/// Resolves names and lets through what the policy allows: only those addresses are connected.
struct Resolver {
    policy: Arc<Policy>,
    lookup: Lookup,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookup) = (Arc::clone(&self.policy), self.lookup);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = lookup(host.clone()).await?;
            let mut allowed = Vec::new();
            let mut refused = None;
            for address in found.into_iter().take(ADDRESSES_MAX) {
                match policy.check(&host, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(why) => refused = refused.or(Some(why)),
                }
            }
            match (allowed.is_empty(), refused) {
                (true, Some(refused)) => Err(HopError::Refused(refused).into()),
                (true, None) => {
                    Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into())
                }
                (false, _) => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

fn system_lookup(host: String) -> futures_util::future::BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
}

/// Finds the hop that was not taken in what became of a request.
pub(super) fn hop_error(error: &reqwest::Error) -> Option<HopError> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(hop) = cause.downcast_ref::<HopError>() {
            return Some(hop.clone());
        }
        source = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;

    use super::*;
    use crate::core::tasks::Tasks;

    const FOLLOW: ClientOptions = ClientOptions {
        connect_timeout: std::time::Duration::from_secs(5),
        read_timeout: std::time::Duration::from_secs(5),
        total_timeout: None,
        redirects: Redirects::Follow(3),
    };

    /// Serves redirects to the address behind `/to/`, and `here` everywhere else; counts requests.
    async fn serve(tasks: &Tasks) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let to = |axum::extract::Path(target): axum::extract::Path<String>| async move {
            (StatusCode::FOUND, [("location", target)])
        };
        let router = Router::new()
            .route("/to/{*target}", get(to))
            .fallback(move || async move {
                count.fetch_add(1, Ordering::Relaxed);
                "here"
            });
        let family = tasks.clone();
        tasks.spawn("server", async move {
            crate::core::net::http::serve(listener, router, &family).await;
        });
        (address, seen)
    }

    async fn fetch(client: &GuardedClient, url: &str) -> Result<String, String> {
        let url = parse_url(client.policy(), url).map_err(|error| error.to_string())?;
        let answer = client.get().await.unwrap().get(url).send().await;
        match answer {
            Ok(answer) => Ok(answer.text().await.unwrap()),
            Err(error) => {
                Err(hop_error(&error).map_or_else(|| super::super::describe(error), |hop| hop.to_string()))
            }
        }
    }

    fn policy(allowed: &[&str]) -> Arc<Policy> {
        Arc::new(Policy::new(
            allowed.iter().map(|text| text.parse().unwrap()).collect(),
        ))
    }

    #[tokio::test]
    async fn no_road_leads_to_an_address_that_is_not_allowed() {
        let tasks = Tasks::new();
        let (server, seen) = serve(&tasks).await;
        let port = server.port();
        let shut = GuardedClient::new(FOLLOW, policy(&[]));
        for host in [
            "127.0.0.1",
            "localhost",
            "2130706433",
            "0x7f.1",
            "[::ffff:127.0.0.1]",
            "0",
        ] {
            let error = fetch(&shut, &format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(error.contains("which jobs may not reach"), "{host}: {error}");
        }
        for url in [
            "file:///etc/passwd",
            "ftp://x/",
            "http://",
            "nothing",
            "unix:/run/docker.sock",
        ] {
            assert!(
                fetch(&shut, url)
                    .await
                    .unwrap_err()
                    .contains("not an http or https"),
                "{url}"
            );
        }
        assert_eq!(seen.load(Ordering::Relaxed), 0);
        let open = GuardedClient::new(FOLLOW, policy(&["127.0.0.1/32"]));
        assert_eq!(
            fetch(&open, &format!("http://127.0.0.1:{port}/")).await.unwrap(),
            "here"
        );
        assert_eq!(
            fetch(&open, &format!("http://localhost:{port}/")).await.unwrap(),
            "here"
        );
        tasks.abort();
    }

    #[tokio::test]
    async fn a_redirect_is_judged_like_a_first_address_and_their_number_is_bounded() {
        let tasks = Tasks::new();
        let (server, seen) = serve(&tasks).await;
        // Only the first hop is allowed.
        let client = GuardedClient::new(FOLLOW, policy(&["127.0.0.1/32"]));
        for (target, reason) in [
            (
                "http://169.254.169.254/latest/meta-data/",
                "a cloud metadata address",
            ),
            ("http://127.0.0.2/", "a loopback address"),
            ("http://[::1]/", "a loopback address"),
            ("http://0x0a000001/", "a private address"),
            ("file:///etc/passwd", ""),
        ] {
            let error = fetch(&client, &format!("http://{server}/to/{target}")).await;
            // A redirect to what is no HTTP is not taken at all: its own answer is the last.
            let told = error.unwrap_or_else(|error| error);
            assert!(told.contains(reason) && told != "here", "{target}: {told}");
        }
        assert_eq!(seen.load(Ordering::Relaxed), 0);
        let chain = |hops: usize| format!("http://{server}/{}end", "to//".repeat(hops));
        assert_eq!(fetch(&client, &chain(3)).await.unwrap(), "here");
        assert_eq!(
            fetch(&client, &chain(4)).await.unwrap_err(),
            "the server redirected more than 3 times"
        );
        tasks.abort();
    }

    #[test]
    fn encryption_is_not_given_up_on_the_way() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let policy = Policy::default();
        let hop = |from: &str, to: &str| hop(&policy, &[url(from)], &url(to), 3);
        assert_eq!(hop("https://a.test/", "http://a.test/"), Err(HopError::Downgrade));
        assert_eq!(hop("http://a.test/", "https://b.test/"), Ok(()));
        assert_eq!(hop("https://a.test/", "https://b.test/"), Ok(()));
    }

    #[tokio::test]
    async fn a_name_that_changes_its_mind_is_connected_only_to_what_was_checked() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let tasks = Tasks::new();
        let (server, seen) = serve(&tasks).await;
        // The first answer is allowed but nobody listens there; the second is where the service to be reached is.
        let lookup: Lookup = |_host| {
            let turn = ASKED.fetch_add(1, Ordering::Relaxed);
            let address = if turn == 0 { [127, 0, 0, 9] } else { [127, 0, 0, 1] };
            Box::pin(async move { Ok(vec![(address, 0).into()]) })
        };
        let client = GuardedClient::with_lookup(FOLLOW, policy(&["127.0.0.9/32"]), lookup);
        let url = format!("http://rebinding.test:{}/", server.port());
        assert!(!fetch(&client, &url).await.unwrap_err().contains("may not reach"));
        let error = fetch(&client, &url).await.unwrap_err();
        assert!(
            error.contains("rebinding.test is at 127.0.0.1, a loopback address"),
            "{error}"
        );
        assert_eq!(
            (ASKED.load(Ordering::Relaxed), seen.load(Ordering::Relaxed)),
            (2, 0)
        );
        // A mixture is used for its good part.
        let mixed: Lookup =
            |_host| Box::pin(async { Ok(vec![([10, 0, 0, 1], 0).into(), ([127, 0, 0, 1], 0).into()]) });
        let client = GuardedClient::with_lookup(FOLLOW, policy(&["127.0.0.1/32"]), mixed);
        assert_eq!(fetch(&client, &url).await.unwrap(), "here");
        tasks.abort();
    }
}
