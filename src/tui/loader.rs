//! The loader: a thread that reads pages and writes files, so that the screen never waits for a disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::demo;
use super::event::{Answer, Event, Header, Purpose, Request};
use super::source::Source;
use super::view::LoadError;
use crate::core::store::look::{Footprint, footprint};
use crate::core::telemetry::journal;

/// Pages and files that wait to be read and written: one per kind that the dashboard asks for, and a few files.
const WORK_MAX: usize = 8;

/// Answers that wait to be taken.
const ANSWERS_MAX: usize = 8;

/// Pause between two looks for new roles in the data directory.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

thread_local! {
    /// What a panic said while a page was being read; none where no page is read by this thread.
    static READING: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what a panic said, if this thread reads a page: then it is the page's failure and nobody else's.
pub(super) fn keep_panic(message: &str) -> bool {
    READING.with_borrow_mut(|reading| match reading {
        Some(said) => {
            message.clone_into(said);
            true
        }
        None => false,
    })
}

/// Where pages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// The databases in a directory, of a context if it has a name.
    Directory(PathBuf, Option<(String, bool)>),
    /// Recorded pages.
    Demo,
}

/// What the loader is to do.
#[derive(Debug)]
pub enum Work {
    /// Read a page.
    Load(Request),
    /// Write a new file.
    Save(PathBuf, String),
    /// Read from another place.
    Turn(Feed),
}

/// Reads pages from a [`Feed`].
#[derive(Debug)]
pub struct Reader {
    feed: Feed,
    source: Source,
    looked: Option<Instant>,
    /// What the files were when they were read last: to be shown, and for the alerts.
    read: [Vec<Footprint>; 2],
}

impl Reader {
    /// Makes a reader; finds out which roles there are.
    pub fn new(feed: Feed) -> Self {
        let mut reader = Self {
            feed,
            source: Source::default(),
            looked: None,
            read: [Vec::new(), Vec::new()],
        };
        reader.look();
        reader
    }

    /// Returns what stands at the top of the screen.
    pub fn header(&self) -> Header {
        match &self.feed {
            Feed::Directory(_, context) => self.source.header(context.clone()),
            Feed::Demo => demo::header(),
        }
    }

    /// Finds out which roles there are now, every few seconds; tells whether they are others than before.
    fn look(&mut self) -> bool {
        let Feed::Directory(dir, _) = &self.feed else {
            return false;
        };
        if self.looked.is_some_and(|last| last.elapsed() < LOOK_PAUSE) {
            return false;
        }
        self.looked = Some(Instant::now());
        let found = Source::of(dir);
        let differs = found.places != self.source.places || found.dir != self.source.dir;
        if differs {
            self.source = found;
        }
        differs
    }

    /// Tells whether a database or a log was written since it was asked the last time for this purpose.
    fn is_written(&mut self, purpose: Purpose) -> bool {
        let now: Vec<Footprint> = self
            .source
            .places
            .iter()
            .flat_map(|place| [place.database(), journal::file(&place.dir, place.role.word())])
            .map(|path| footprint(&path))
            .collect();
        let [shown, alerts] = &mut self.read;
        let before = match purpose {
            Purpose::Shown => shown,
            Purpose::Alerts => alerts,
        };
        let is_written = *before != now;
        *before = now;
        is_written
    }

    /// Reads a page; a panic of the view is a failure of that page.
    pub fn read(&mut self, request: &Request) -> Answer {
        let start = Instant::now();
        let differs = self.look();
        let is_news = self.is_written(request.purpose);
        READING.set(Some(String::new()));
        let read = catch_unwind(AssertUnwindSafe(|| match &self.feed {
            Feed::Directory(..) => (request.view.load)(&self.source, &request.ask),
            Feed::Demo => demo::page(request.view.name, &request.ask)
                .ok_or(LoadError::NotKept("the recording has no such page")),
        }));
        let said = READING.take().unwrap_or_default();
        let result = read.unwrap_or_else(|_| {
            Err(LoadError::Database {
                database: format!("the view {}", request.view.name),
                reason: format!("this is a bug of horde: {said}"),
            })
        });
        Answer {
            id: request.id,
            result: result.map(super::app::screen::bounded),
            took: start.elapsed(),
            is_news,
            header: differs.then(|| self.header()),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    is_closed: bool,
}

/// The loader's thread, seen from the loop.
#[derive(Debug)]
pub struct Loader {
    queue: Arc<(Mutex<Queue>, Condvar)>,
    /// What it has read and written.
    pub answers: mpsc::Receiver<Event>,
}

impl Loader {
    /// Starts the thread.
    pub fn start(mut reader: Reader) -> io::Result<Self> {
        let queue = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let shared = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("horde-loader".to_owned())
            .spawn(move || {
                while let Some(work) = next(&shared) {
                    let event = match work {
                        Work::Load(request) => Event::Loaded(Box::new(reader.read(&request))),
                        Work::Save(path, text) => Event::Saved(save(&path, &text)),
                        Work::Turn(feed) => {
                            reader = Reader::new(feed);
                            Event::Turned(reader.header())
                        }
                    };
                    if sender.blocking_send(event).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self { queue, answers })
    }

    /// Gives the loader something to do; tells whether it took it, which it does not if too much waits already. A page
    /// that still waits when another one is asked for in its place is not read.
    pub fn give(&self, work: Work) -> bool {
        let (queue, wake) = &*self.queue;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Work::Load(new) = &work {
            queue
                .work
                .retain(|old| !matches!(old, Work::Load(old) if old.purpose == new.purpose));
        }
        if queue.work.len() == WORK_MAX {
            return false;
        }
        queue.work.push_back(work);
        wake.notify_one();
        true
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let (queue, wake) = &*self.queue;
        queue.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        wake.notify_one();
    }
}

fn next(shared: &(Mutex<Queue>, Condvar)) -> Option<Work> {
    let (queue, wake) = shared;
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if queue.is_closed {
            return None;
        }
        if let Some(work) = queue.work.pop_front() {
            return Some(work);
        }
        queue = wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Writes a file that there was not.
fn save(path: &Path, text: &str) -> Result<PathBuf, String> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(format!("{} exists already and was left as it is", path.display()))
        }
        Err(error) => Err(format!("could not save {}: {error}", path.display())),
    }
}
