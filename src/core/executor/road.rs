//! The way to the miner, which may break and be found again (extension `resume`).
//!
//! What was told is remembered: on a new link it is told again, after the word that this executor is back. The report
//! is kept until the miner says that it has it. Without the extension, the first loss is the last.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::core::clock::Backoff;
use crate::core::net::extensions::Extensions;
use crate::core::net::ws::{self, ConnectOptions};
use crate::core::net::{Event, Link, LinkClosed, LinkSender, close_code};
use crate::core::proto::miner_executor::{Down, EXTENSION_RESUME, Resumes, Up};
use crate::core::tasks::Tasks;

/// Shortest and longest pause between attempts to find the miner again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How far behind the miner may be in taking a message before it is sent later.
const SEND_PATIENCE: Duration = Duration::from_secs(60);

/// How long the miner may take to say that it has the report, once it is told for the last time.
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_secs(60);

/// The same when this executor is asked to stop: whoever asks for that kills soon.
const STOPPING_PATIENCE: Duration = Duration::from_secs(1);

/// The longest that the miner may take to answer the close.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);

/// The link of one job, over all its losses.
#[derive(Debug)]
pub(super) struct Road {
    url: String,
    options: ConnectOptions,
    tasks: Tasks,
    /// How long the miner is looked for.
    patience: Duration,
    link: Link,
    /// Where to send what may be lost; changes with the link.
    sender: watch::Sender<LinkSender>,
    /// What both sides know beyond the wire.
    extensions: Extensions,
    /// What was told, in order.
    told: Vec<Up>,
    /// How many of these were sent on the present link.
    sent: usize,
    /// What to say first on the present link.
    greeting: Option<Resumes>,
    /// What the miner has sent, for the greeting.
    has: Resumes,
    is_kept: bool,
    has_resumed: bool,
    /// While the link is lost: until when the miner is looked for.
    give_up: Option<Instant>,
    next_attempt: Instant,
    backoff: Backoff,
}

impl Road {
    /// Begins with the first link.
    pub(super) fn new(
        link: Link,
        url: String,
        options: ConnectOptions,
        patience: Duration,
        tasks: Tasks,
    ) -> Self {
        Self {
            url,
            options,
            tasks,
            patience,
            sender: watch::Sender::new(link.sender()),
            extensions: link.extensions().clone(),
            link,
            told: Vec::new(),
            sent: 0,
            greeting: None,
            has: Resumes {
                job_uuid: None,
                is_ordered: false,
            },
            is_kept: false,
            has_resumed: false,
            give_up: None,
            next_attempt: Instant::now(),
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
        }
    }

    /// Returns what both sides know beyond the wire.
    pub(super) fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the way for what may be lost, whatever becomes of the link.
    pub(super) fn sender(&self) -> watch::Receiver<LinkSender> {
        self.sender.subscribe()
    }

    /// Tells whether the miner is being looked for.
    pub(super) fn is_lost(&self) -> bool {
        self.give_up.is_some()
    }

    /// Tells whether this is not the first link.
    pub(super) fn has_resumed(&self) -> bool {
        self.has_resumed
    }

    /// Notes what the miner has sent.
    pub(super) fn note(&mut self, message: &Down) {
        match message {
            Down::InitialJob(job) => self.has.job_uuid = Some(job.job_uuid.clone()),
            Down::FullJob(_) => self.has.is_ordered = true,
            Down::ReportKept(_) => self.is_kept = true,
            Down::JobCancel(_) | Down::GenericError(_) => {}
        }
    }

    /// Tells the miner, now or when it is found again.
    pub(super) async fn tell(&mut self, message: Up) {
        let kind = message.message_type();
        self.told.push(message);
        if self.is_lost() {
            tracing::debug!(message = kind, "to be told when the miner is found again");
            return;
        }
        // A link that has ended says so when it is listened to.
        match timeout(SEND_PATIENCE, self.flush()).await {
            Ok(Ok(())) => tracing::debug!(message = kind, "told the miner"),
            Ok(Err(error)) => tracing::warn!(%error, "could not tell the miner"),
            Err(_elapsed) => tracing::warn!("the miner does not take messages"),
        }
    }

    /// Waits for the next news; a link that is lost for good, and only that one, has ended. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Event {
        loop {
            if let Some(until) = self.give_up
                // Boxed, as it is rarely needed: nobody shall hold room for it.
                && let Err(ended) = Box::pin(self.find(until)).await
            {
                return ended;
            }
            let event = match self.flush().await {
                // What the miner said before the end is still to be heard.
                Ok(()) | Err(_) => self.link.recv().await,
            };
            let Event::Closed { code, .. } = &event else {
                return event;
            };
            if !self.extensions.has(EXTENSION_RESUME) || *code == close_code::NOT_WANTED || self.is_kept {
                return event;
            }
            tracing::warn!(
                code,
                seconds = self.patience.as_secs(),
                "the miner is gone; working on and looking for it"
            );
            let now = Instant::now();
            self.give_up = Some(now + self.patience);
            self.next_attempt = now;
        }
    }

    /// Looks for the miner until a link is open; ends with the end of the session when that time is over.
    async fn find(&mut self, until: Instant) -> Result<(), Event> {
        let lost = |reason: &str| Event::Closed {
            code: close_code::ABNORMAL,
            reason: reason.to_owned(),
        };
        loop {
            if Instant::now() >= until {
                return Err(lost("the miner did not come back"));
            }
            sleep_until(self.next_attempt.min(until)).await;
            // First, so that an attempt that is interrupted is followed by a pause, too.
            self.next_attempt = Instant::now() + self.backoff.pause();
            let link = match ws::connect(&self.url, &self.options, &self.tasks).await {
                Ok(link) => link,
                Err(error) => {
                    tracing::debug!(%error, "the miner is not back yet");
                    continue;
                }
            };
            if !link.extensions().has(EXTENSION_RESUME) {
                return Err(lost("the miner came back as one that knows of no resuming"));
            }
            tracing::info!("the miner is back");
            self.link = link;
            self.has_resumed = true;
            self.greeting = Some(self.has.clone());
            self.sent = 0;
            self.give_up = None;
            return Ok(());
        }
    }

    /// Sends what the present link has not carried yet. Cancel-safe.
    async fn flush(&mut self) -> Result<(), LinkClosed> {
        if let Some(greeting) = &self.greeting {
            self.link.send(Up::from(greeting.clone()).encode()).await?;
            self.greeting = None;
            self.backoff.reset();
            self.sender.send_replace(self.link.sender());
        }
        while let Some(message) = self.told.get(self.sent) {
            self.link.send(message.encode()).await?;
            self.sent += 1;
        }
        Ok(())
    }

    /// Waits until the miner has the report, where both sides agreed to that, then closes.
    pub(super) async fn part(mut self) {
        let owes = self.extensions.has(EXTENSION_RESUME) && self.told.iter().any(Up::is_report);
        if owes && !self.is_kept {
            let tasks = self.tasks.clone();
            let patience = self.patience + ACKNOWLEDGE_PATIENCE;
            let is_kept = tokio::select! {
                is_kept = self.until_kept() => is_kept,
                () = sleep(patience) => false,
                () = async {
                    tasks.stopped().await;
                    sleep(STOPPING_PATIENCE).await;
                } => false,
            };
            if !is_kept {
                tracing::warn!("the miner has not said that it has the report");
            }
        }
        self.link.close(close_code::NORMAL, "").await;
        if timeout(GOODBYE_PATIENCE, self.link.sender().closed())
            .await
            .is_err()
        {
            tracing::debug!("the miner did not answer the close");
        }
    }

    async fn until_kept(&mut self) -> bool {
        loop {
            match self.recv().await {
                Event::Text(text) => {
                    if let Ok(message) = Down::decode(&text) {
                        self.note(&message);
                    }
                    if self.is_kept {
                        return true;
                    }
                }
                Event::Binary(_) => {}
                Event::Closed { .. } => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::core::model::JobId;
    use crate::core::net::http;
    use crate::core::net::ws::{Limits, Upgrade};
    use crate::core::proto::job::{ExecutorReady, HordeFailed};
    use crate::core::proto::miner_executor::ReportKept;

    /// A miner whose links come to the test, and the road to it.
    async fn road(known: &[&str], patience: Duration) -> (Tasks, mpsc::Receiver<Link>, Link, Road) {
        let tasks = Tasks::new();
        let (sender, mut links) = mpsc::channel(4);
        let (family, known) = (tasks.clone(), Extensions::of(known));
        let handler = async move |upgrade: Upgrade| {
            ws::accept(
                upgrade.agreeing(&known),
                Limits::default(),
                &family,
                async move |link| {
                    drop(sender.send(link).await);
                },
            )
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let family = tasks.clone();
        tasks.spawn("miner", async move {
            http::serve(listener, Router::new().route("/", get(handler)), &family).await;
        });
        let options = ConnectOptions {
            extensions: Extensions::of(&[EXTENSION_RESUME]),
            ..ConnectOptions::default()
        };
        let link = ws::connect(&url, &options, &tasks).await.unwrap();
        let miner = links.recv().await.unwrap();
        let road = Road::new(link, url, options, patience, tasks.clone());
        (tasks, links, miner, road)
    }

    fn job_uuid() -> JobId {
        JobId::new("j")
    }

    fn ready() -> Up {
        let ready = ExecutorReady {
            job_uuid: job_uuid(),
            executor_token: None,
        };
        ready.into()
    }

    fn report() -> Up {
        let failed = HordeFailed {
            job_uuid: job_uuid(),
            reported_by: crate::core::model::job::Participant::Executor,
            message: "m".to_owned(),
            reason: crate::core::model::job::HordeReason::GenericError,
            context: None,
        };
        failed.into()
    }

    async fn hear(link: &mut Link) -> Up {
        match link.recv().await {
            Event::Text(text) => Up::decode(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_lost_miner_is_found_and_told_again_until_it_has_the_report() {
        let (_tasks, mut links, mut miner, mut road) =
            road(&[EXTENSION_RESUME], Duration::from_secs(60)).await;
        let sender = road.sender();
        road.tell(ready()).await;
        assert_eq!(hear(&mut miner).await, ready());
        miner.close(close_code::GOING_AWAY, "").await;
        drop(miner);
        // It is told while it is looked for; to stop listening in the middle of that does no harm.
        while !(road.is_lost() || road.has_resumed()) {
            drop(timeout(Duration::from_millis(1), road.recv()).await);
        }
        let parting = async {
            road.tell(report()).await;
            road.part().await;
        };
        let listening = async {
            let back = Resumes {
                job_uuid: None,
                is_ordered: false,
            };
            let mut heard = Vec::new();
            // A link that was opened when nobody listened any more carries nothing.
            let mut miner = loop {
                let mut miner = links.recv().await.unwrap();
                if let Event::Text(text) = miner.recv().await {
                    heard.push(Up::decode(&text).unwrap());
                    break miner;
                }
            };
            for _ in 0..2 {
                heard.push(hear(&mut miner).await);
            }
            assert_eq!(heard, [back.into(), ready(), report()]);
            assert!(sender.borrow().offer("live") && matches!(miner.recv().await, Event::Text(_)));
            // The miner dies before it has kept the report; its next life does.
            drop(miner);
            let mut miner = links.recv().await.unwrap();
            assert!(matches!(hear(&mut miner).await, Up::Resumes(_)));
            assert_eq!(
                [hear(&mut miner).await, hear(&mut miner).await],
                [ready(), report()]
            );
            let kept = ReportKept { job_uuid: job_uuid() };
            miner.send(Down::from(kept).encode()).await.unwrap();
            assert!(matches!(
                miner.recv().await,
                Event::Closed {
                    code: close_code::NORMAL,
                    ..
                }
            ));
        };
        tokio::join!(parting, listening);
    }

    #[tokio::test]
    async fn a_miner_that_does_not_come_back_does_not_know_or_does_not_want_is_lost_for_good() {
        let minute = Duration::from_secs(60);
        let cases: [(&[&str], Duration, u16); 3] = [
            (&[EXTENSION_RESUME], Duration::ZERO, close_code::GOING_AWAY),
            (&[EXTENSION_RESUME], minute, close_code::NOT_WANTED),
            (&[], minute, close_code::GOING_AWAY),
        ];
        for (known, patience, code) in cases {
            let (_tasks, _links, miner, mut road) = road(known, patience).await;
            miner.close(code, "").await;
            assert!(matches!(road.recv().await, Event::Closed { .. }));
        }
    }
}
