//! What keys, the mouse and answers make of the dashboard, and how it looks then.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::tui::event::Purpose;
use crate::tui::headless::{frame, text};
use crate::tui::source::Source;
use crate::tui::view::{Cell, Chart, Column, Line, LoadError, Row, VIEWS, Value};

const NOON: OffsetDateTime = datetime!(2026-11-25 12:00:00 UTC);

fn unread(_: &Source, _: &Ask) -> Result<Page, LoadError> {
    Err(LoadError::NotKept("tests answer by themselves"))
}

const fn view(name: &'static str, key: Option<char>, opens: Option<&'static str>) -> View {
    View {
        name,
        key,
        title: name,
        about: "Show something",
        opens,
        keeps_past: true,
        load: unread,
        draw: None,
    }
}

static TABLE: [View; 4] = [
    view("overview", Some('O'), None),
    view("jobs", Some('J'), Some("job")),
    view("job", None, None),
    view("logs", Some('L'), None),
];

/// The dashboard with a clock and the requests that it has made.
struct Desk {
    app: App,
    now: Now,
    requests: Vec<Request>,
    effects: Vec<Effect>,
}

impl Desk {
    fn at(view: usize, size: (u16, u16)) -> Self {
        let now = Now {
            wall: NOON,
            steady: Duration::ZERO,
        };
        let start = Start {
            views: &TABLE,
            view: TABLE.get(view),
            key: None,
            keys: KeyMap::built_in(),
            theme: Theme::Dark,
            depth: Depth::Many,
            ascii: false,
            mouse: true,
            at: None,
            header: Header {
                roles: vec!["facilitator".to_owned(), "miner-1".to_owned()],
                context: Some(("home".to_owned(), true)),
                dir: "/data".to_owned(),
            },
            contexts: vec!["office".to_owned()],
            notice: None,
            size,
        };
        let mut desk = Self {
            app: App::new(start, now),
            now,
            requests: Vec::new(),
            effects: Vec::new(),
        };
        desk.tell(Event::Tick);
        desk
    }

    fn jobs() -> Self {
        let mut desk = Self::at(1, (100, 24));
        desk.answer(Ok(jobs()));
        desk
    }

    fn logs() -> Self {
        let mut desk = Self::at(3, (100, 24));
        desk.answer(Ok(logs(100)));
        desk
    }

    fn tell(&mut self, event: Event) {
        for effect in self.app.update(event, self.now) {
            match effect {
                Effect::Load(request) => self.requests.push(request),
                effect => self.effects.push(effect),
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.wall += time;
        self.now.steady += time;
        self.tell(Event::Tick);
    }

    /// Answers the last request for what is shown.
    fn answer(&mut self, result: Result<Page, LoadError>) {
        let place = self
            .requests
            .iter()
            .rposition(|request| request.purpose == Purpose::Shown);
        let request = self.requests.remove(place.expect("nothing was asked for"));
        self.answer_to(&request, result);
    }

    fn answer_to(&mut self, request: &Request, result: Result<Page, LoadError>) {
        self.tell(Event::Loaded(Box::new(Answer {
            id: request.id,
            result,
            took: Duration::from_millis(2),
            is_news: true,
            header: None,
        })));
    }

    fn shown_requests(&self) -> usize {
        let shown = self.requests.iter();
        shown.filter(|request| request.purpose == Purpose::Shown).count()
    }

    /// Presses keys, written as in a key map and separated by spaces.
    fn press(&mut self, keys: &str) {
        for word in keys.split(' ') {
            let key = Key::parse(word).unwrap_or_else(|| panic!("{word} is no key"));
            let mut modifiers = KeyModifiers::NONE;
            if key.is_ctrl() {
                modifiers |= KeyModifiers::CONTROL;
            }
            self.tell(Event::Key(KeyEvent::new(key.code(), modifiers)));
        }
    }

    fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            self.tell(Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)));
        }
    }

    fn mouse(&mut self, kind: MouseEventKind, column: u16, row: u16) {
        self.tell(Event::Mouse(MouseEvent {
            kind,
            column,
            row,
            modifiers: KeyModifiers::NONE,
        }));
    }

    fn click(&mut self, column: u16, row: u16) {
        self.mouse(MouseEventKind::Down(MouseButton::Left), column, row);
    }

    fn screen(&self) -> String {
        text(&frame(&self.app))
    }

    fn selected(&self) -> &str {
        self.app.screen().selected.as_deref().unwrap_or("nothing")
    }

    /// Returns the keys of the rows in the order shown.
    fn order(&self) -> Vec<String> {
        let screen = self.app.screen();
        (0..screen.order.len())
            .map(|place| screen.row_at(place).unwrap().key.to_string())
            .collect()
    }
}

fn columns() -> Vec<Column> {
    [
        ("id", false, 0),
        ("status", false, 1),
        ("tries", true, 3),
        ("image", false, 2),
    ]
    .into_iter()
    .map(|(name, right, rank)| Column { name, right, rank })
    .collect()
}

fn row(id: &str, status: &str, tries: Option<i64>, tone: Tone) -> Row {
    Row {
        key: id.into(),
        cells: vec![
            Cell::text(id),
            Cell::text(status).tone(tone),
            tries.map_or_else(Cell::nothing, Cell::integer),
            Cell::text("busybox:latest"),
        ],
    }
}

fn jobs() -> Page {
    Page {
        facts: vec![
            ("running", Cell::integer(1).tone(Tone::Busy)),
            ("failed today", Cell::integer(1).tone(Tone::Bad)),
        ],
        columns: columns(),
        rows: vec![
            row("c3", "running", Some(1), Tone::Busy),
            row("a1", "completed", Some(12), Tone::Good),
            row("b2", "failed", None, Tone::Bad),
            row("d4", "completed", Some(2), Tone::Good),
        ],
        empty: "no job yet",
        ..Page::default()
    }
}

fn logs(lines: usize) -> Page {
    Page {
        text: (0..lines)
            .map(|at| Line {
                at: Some(Timestamp::new(NOON)),
                text: format!("line {at} {}", "x".repeat(at)),
                tone: if at % 10 == 3 { Tone::Bad } else { Tone::Plain },
            })
            .collect(),
        empty: "no line yet",
        ..Page::default()
    }
}

fn charted() -> Page {
    Page {
        charts: vec![
            Chart {
                title: "jobs per minute",
                bars: (0..30)
                    .map(|at| (format!("11:{at:02}"), f64::from(at % 7)))
                    .collect(),
            },
            Chart {
                title: "by miner",
                bars: vec![("miner-1".to_owned(), 12.0), ("miner-2".to_owned(), 3.5)],
            },
        ],
        ..jobs()
    }
}

#[test]
fn the_selection_stays_on_its_row_when_rows_move_and_on_its_place_when_it_is_gone() {
    let mut desk = Desk::jobs();
    desk.press("down down");
    assert_eq!(desk.selected(), "b2");
    desk.pass(LIVE_PAUSE);
    let mut page = jobs();
    page.rows.insert(0, row("e5", "running", None, Tone::Busy));
    desk.answer(Ok(page.clone()));
    assert_eq!(desk.selected(), "b2");
    page.rows.retain(|row| &*row.key != "b2");
    desk.pass(LIVE_PAUSE);
    desk.answer(Ok(page));
    assert_eq!(desk.selected(), "d4");
}

#[test]
fn rows_are_sorted_by_value_with_nothing_at_the_end_either_way() {
    let mut desk = Desk::jobs();
    desk.press("s");
    assert_eq!(desk.order(), ["a1", "b2", "c3", "d4"]);
    desk.press("s s");
    assert_eq!(desk.order(), ["c3", "d4", "a1", "b2"], "by number, not by text");
    desk.press("S");
    assert_eq!(desk.order(), ["a1", "d4", "c3", "b2"]);
    desk.press("s s");
    assert_eq!(
        desk.order(),
        ["c3", "a1", "b2", "d4"],
        "the view's own order again"
    );
    assert_eq!(desk.selected(), "c3");
    desk.press(":");
    desk.type_text("sort status down");
    desk.press("enter");
    assert_eq!(desk.order(), ["c3", "b2", "a1", "d4"]);
}

#[test]
fn a_filter_works_while_it_is_typed_and_escape_takes_it_back() {
    let mut desk = Desk::jobs();
    desk.press("/");
    desk.type_text("status:comp");
    assert_eq!(desk.order(), ["a1", "d4"]);
    desk.press("esc");
    assert_eq!(desk.order().len(), 4);
    desk.press("/");
    desk.type_text("!comp");
    desk.press("enter");
    assert_eq!(desk.order(), ["c3", "b2"]);
    assert!(desk.screen().contains("/!comp"));
    desk.press("/ backspace backspace backspace backspace backspace");
    desk.type_text("~(");
    assert!(desk.screen().contains("no regular expression"));
    desk.press("ctrl-u");
    desk.type_text("nothing");
    desk.press("enter");
    assert!(desk.screen().contains("none of 4 rows matches nothing"));
    desk.press("esc");
    desk.press("/");
    desk.type_text("stage:x");
    desk.press("enter");
    assert!(desk.screen().contains("there is no column stage; there are"));
    desk.press("esc");
    assert_eq!(desk.order().len(), 4);
}

#[test]
fn a_search_goes_from_match_to_match_and_round_the_end() {
    let mut desk = Desk::jobs();
    desk.press("ctrl-s");
    desk.type_text("completed");
    desk.press("enter");
    assert_eq!(desk.selected(), "a1");
    desk.press("n");
    assert_eq!(desk.selected(), "d4");
    desk.press("n");
    assert_eq!(desk.selected(), "a1");
    desk.press("N");
    assert_eq!(desk.selected(), "d4");
    desk.press("ctrl-s");
    desk.type_text("nowhere");
    desk.press("enter");
    assert!(desk.screen().contains("nothing matches nowhere"));
}

#[test]
fn enter_opens_and_escape_goes_back_to_the_same_row() {
    let mut desk = Desk::jobs();
    desk.press("down enter");
    assert_eq!(desk.app.screen().view.name, "job");
    assert_eq!(desk.app.screen().ask.key.as_deref(), Some("a1"));
    desk.answer(Ok(logs(3)));
    assert!(desk.screen().contains("jobs › job a1"));
    // What the view before had asked for comes too late and is nobody's.
    let late = Request {
        id: 1,
        purpose: Purpose::Shown,
        view: &TABLE[1],
        ask: Ask::default(),
    };
    desk.answer_to(&late, Ok(jobs()));
    assert!(desk.app.screen().page.as_ref().unwrap().rows.is_empty());
    desk.press("esc");
    assert_eq!((desk.app.screen().view.name, desk.selected()), ("jobs", "a1"));
    desk.press("esc");
    assert!(desk.screen().contains("q quits"));
    assert!(desk.effects.is_empty());
}

#[test]
fn a_row_that_opens_nothing_is_shown_with_all_its_columns() {
    let mut desk = Desk::at(0, (60, 16));
    desk.answer(Ok(jobs()));
    desk.press("enter");
    let screen = desk.screen();
    assert!(
        screen.contains("image") && screen.contains("busybox:latest"),
        "{screen}"
    );
    desk.press("esc");
    assert_eq!(desk.app.over, None);
}

#[test]
fn live_pages_are_read_twice_a_second_and_costly_ones_less() {
    let mut desk = Desk::jobs();
    assert_eq!(desk.shown_requests(), 0);
    desk.pass(Duration::from_millis(499));
    assert_eq!(desk.shown_requests(), 0);
    desk.pass(Duration::from_millis(1));
    assert_eq!(desk.shown_requests(), 1);
    desk.pass(Duration::from_secs(5));
    assert_eq!(desk.shown_requests(), 1, "one at a time");
    for (is_news, times) in [(true, 100), (false, 300)] {
        let request = desk.requests.pop().unwrap();
        desk.requests.clear();
        desk.tell(Event::Loaded(Box::new(Answer {
            id: request.id,
            result: Ok(jobs()),
            took: Duration::from_millis(20),
            is_news,
            header: None,
        })));
        desk.pass(Duration::from_millis(20 * times - 1));
        assert_eq!(desk.shown_requests(), 0);
        desk.pass(Duration::from_millis(1));
        assert_eq!(desk.shown_requests(), 1, "{times} times as long as reading took");
        desk.requests.retain(|request| request.purpose == Purpose::Shown);
    }
}

#[test]
fn a_failure_keeps_the_last_page_says_so_and_is_tried_again_less_and_less() {
    let mut desk = Desk::jobs();
    desk.pass(LIVE_PAUSE);
    let broken = LoadError::Database {
        database: "miner.sqlite".to_owned(),
        reason: "the disk failed".to_owned(),
    };
    desk.answer(Err(broken.clone()));
    desk.pass(Duration::from_millis(900));
    let screen = desk.screen();
    assert!(screen.contains("c3") && screen.contains("stale") && screen.contains("the disk failed"));
    assert_eq!(desk.shown_requests(), 0);
    desk.pass(Duration::from_millis(100));
    for pause in [2, 4, 8, 10, 10] {
        desk.answer(Err(broken.clone()));
        desk.pass(Duration::from_millis(pause * 1000 - 1));
        assert_eq!(desk.shown_requests(), 0, "{pause}");
        desk.pass(Duration::from_millis(1));
        assert_eq!(desk.shown_requests(), 1, "{pause}");
    }
    desk.answer(Ok(jobs()));
    assert!(desk.screen().contains("live") && !desk.screen().contains("disk"));
}

#[test]
fn nothing_is_drawn_again_while_nothing_changes() {
    let mut desk = Desk::jobs();
    desk.app.is_dirty = false;
    desk.now.steady += LIVE_PAUSE;
    desk.tell(Event::Tick);
    desk.answer(Ok(jobs()));
    assert!(!desk.app.is_dirty);
    desk.pass(Duration::from_secs(1));
    assert!(desk.app.is_dirty, "the clock went on");
}

#[test]
fn a_frozen_screen_asks_for_nothing_and_says_that_it_is() {
    let mut desk = Desk::jobs();
    desk.press("p");
    desk.requests.clear();
    desk.pass(Duration::from_secs(60));
    assert!(
        desk.requests
            .iter()
            .all(|request| request.purpose != Purpose::Shown)
    );
    assert!(desk.screen().contains("frozen"));
    desk.press("p");
    assert_eq!(desk.shown_requests(), 1);
}

#[test]
fn time_goes_back_in_steps_and_never_beyond_now() {
    let mut desk = Desk::jobs();
    desk.press("[ [");
    let at = |desk: &Desk| desk.requests.last().unwrap().ask.at.map(Timestamp::moment);
    assert_eq!(at(&desk), Some(NOON - Duration::from_secs(120)));
    desk.answer(Ok(jobs()));
    let screen = desk.screen();
    assert!(screen.contains("as of 2026-11-25 11:58:00, 2 min ago") && screen.contains("past"));
    desk.requests.clear();
    desk.pass(Duration::from_secs(30));
    assert_eq!(desk.shown_requests(), 0, "the past stays as it was");
    desk.press("{ ] } }");
    assert_eq!(desk.app.at, None);
    assert_eq!(at(&desk), None);
    desk.press(":");
    desk.type_text("at 09:30");
    desk.press("enter");
    assert_eq!(at(&desk), Some(datetime!(2026-11-25 09:30:00 UTC)));
    desk.press("=");
    assert_eq!(desk.app.at, None);
}

#[test]
fn older_rows_are_asked_for_by_their_cursor_and_left_again() {
    let mut desk = Desk::jobs();
    desk.press(">");
    assert!(desk.screen().contains("there are no older rows"));
    let mut page = jobs();
    page.older = Some("before-d4".to_owned());
    desk.pass(LIVE_PAUSE);
    desk.answer(Ok(page));
    desk.press("G >");
    let before = |desk: &Desk| desk.requests.last().unwrap().ask.before.clone();
    assert_eq!(before(&desk).as_deref(), Some("before-d4"));
    desk.answer(Ok(jobs()));
    assert_eq!(desk.selected(), "c3", "from the top");
    desk.press("<");
    assert_eq!(before(&desk), None);
}

#[test]
fn rows_are_marked_and_copied_as_ids_text_and_json() {
    let mut desk = Desk::jobs();
    desk.press("y");
    desk.press("space space Y u ctrl-y");
    let copied: Vec<String> = desk
        .effects
        .iter()
        .map(|effect| match effect {
            Effect::Copy(text) => text.clone(),
            effect => panic!("{effect:?}"),
        })
        .collect();
    assert_eq!(
        copied,
        [
            "c3",
            "c3\trunning\t1\tbusybox:latest\na1\tcompleted\t12\tbusybox:latest",
            r#"{"key":"b2","id":"b2","status":"failed","tries":null,"image":"busybox:latest"}"#,
        ]
    );
    let mut page = jobs();
    page.rows[0].key = "k".repeat(take::COPY_MAX + 1).into();
    desk.effects.clear();
    desk.press("g");
    desk.pass(LIVE_PAUSE);
    desk.answer(Ok(page));
    desk.press("g y");
    assert!(desk.effects.is_empty());
    assert!(desk.screen().contains("more than a terminal's clipboard takes"));
}

#[test]
fn what_a_view_shows_is_saved_under_a_name_that_can_be_changed() {
    let mut desk = Desk::jobs();
    desk.press("e enter");
    let [Effect::Save { path, text }] = desk.effects.as_slice() else {
        panic!("{:?}", desk.effects);
    };
    assert_eq!(path.to_str(), Some("horde-jobs-120000.txt"));
    assert!(
        text.starts_with("running: 1\nfailed today: 1 (bad)\nid  status"),
        "{text}"
    );
    desk.tell(Event::Saved(Err("disk full".to_owned())));
    assert!(desk.screen().contains("disk full"));
}

#[test]
fn text_is_followed_paused_where_one_scrolls_and_stays_there_as_it_grows() {
    let mut desk = Desk::logs();
    assert!(desk.screen().contains("line 99") && desk.screen().contains("following"));
    desk.press("up");
    let screen = desk.screen();
    assert!(!screen.contains("line 99") && screen.contains("line 98") && screen.contains("paused"));
    desk.pass(LIVE_PAUSE);
    let mut page = logs(150);
    page.text.drain(..20);
    desk.answer(Ok(page));
    assert!(desk.screen().contains("line 98") && !desk.screen().contains("line 99"));
    desk.press("G");
    assert!(desk.screen().contains("line 149"));
    desk.press("t");
    assert!(!desk.screen().contains("12:00:00 line"));
    desk.press("right");
    assert!(desk.screen().contains("from column 9"));
    desk.press("W");
    assert!(desk.screen().contains("wrapped") && desk.screen().contains("line 149"));
    desk.press("/");
    desk.type_text(r"/line \d*3 /");
    desk.press("enter");
    assert!(desk.screen().contains("line 143") && desk.screen().contains("of 130 lines"));
    desk.press("ctrl-s");
    desk.type_text("line 33");
    desk.press("enter");
    assert!(desk.screen().contains("line 33 ") && desk.screen().contains("paused"));
}

#[test]
fn the_palette_opens_views_and_themes_and_tells_what_is_meant() {
    let mut desk = Desk::jobs();
    desk.press(":");
    desk.type_text("logs");
    desk.press("enter");
    assert_eq!(desk.app.screen().view.name, "logs");
    desk.press(":");
    desk.type_text("job b2");
    desk.press("enter");
    assert_eq!(desk.app.screen().ask.key.as_deref(), Some("b2"));
    desk.press(": up up");
    assert_eq!(desk.app.prompt.as_ref().unwrap().text(), "logs");
    desk.press("esc :");
    desk.type_text("theme light");
    desk.press("enter");
    assert_eq!(desk.app.theme, Theme::Light);
    desk.press(":");
    desk.type_text("contex");
    desk.press("tab enter");
    assert!(matches!(desk.effects.as_slice(), [Effect::Turn(name)] if name == "office"));
    desk.press(":");
    desk.type_text("jbos");
    desk.press("enter");
    assert!(desk.screen().contains("did you mean"), "{}", desk.screen());
    desk.press(":");
    desk.type_text("quit");
    desk.press("enter");
    assert!(matches!(desk.effects.last(), Some(Effect::Quit)));
}

#[test]
fn keys_of_views_and_tabs_open_them_and_control_c_always_quits() {
    let mut desk = Desk::jobs();
    desk.press("L");
    assert_eq!(desk.app.screen().view.name, "logs");
    desk.press("tab");
    assert_eq!(desk.app.screen().view.name, "overview");
    desk.press("shift-tab shift-tab");
    assert_eq!(desk.app.screen().view.name, "jobs");
    desk.press("3");
    assert_eq!(
        desk.app.screen().view.name,
        "logs",
        "a view that others open has no tab"
    );
    desk.press(": ctrl-c");
    assert!(matches!(desk.effects.as_slice(), [Effect::Quit]));
}

#[test]
fn the_help_is_made_from_the_keys_that_there_are() {
    let mut desk = Desk::jobs();
    desk.tell(Event::Resize(100, 90));
    desk.press("?");
    let screen = desk.screen();
    for binding in crate::tui::keys::BINDINGS {
        assert!(screen.contains(binding.about), "{}", binding.about);
    }
    desk.press("esc");
    assert!(!desk.screen().contains("Go up by a page"));
}

#[test]
fn the_mouse_picks_tabs_headings_and_rows_and_can_be_given_away() {
    let mut desk = Desk::jobs();
    let layout = desk.app.layout().unwrap();
    let heading = layout.table.y;
    desk.click(layout.table.x + 3, heading);
    assert_eq!(desk.order(), ["a1", "b2", "c3", "d4"]);
    desk.click(layout.table.x + 3, heading);
    assert_eq!(desk.order(), ["d4", "c3", "b2", "a1"]);
    desk.click(layout.table.x + 3, heading + 4);
    assert_eq!(desk.selected(), "a1");
    desk.mouse(MouseEventKind::ScrollUp, 10, heading + 2);
    assert_eq!(desk.selected(), "d4");
    desk.click(layout.table.x + 3, heading + 1);
    assert_eq!(
        desk.app.screen().view.name,
        "job",
        "a click on the selected row opens it"
    );
    let tab = draw_tabs(&desk.app, "logs");
    desk.click(tab.0, tab.1);
    assert_eq!(desk.app.screen().view.name, "logs");
    desk.press("m");
    assert!(matches!(desk.effects.as_slice(), [Effect::Mouse(false)]));
    desk.click(0, 1);
    assert_eq!(desk.app.screen().view.name, "logs");
}

fn draw_tabs(app: &App, name: &str) -> (u16, u16) {
    let tabs = crate::tui::draw::bars::tabs(app);
    let tab = tabs.iter().find(|tab| tab.view.name == name).unwrap();
    (tab.area.x + 1, tab.area.y)
}

#[test]
fn alerts_are_what_the_overview_says_until_they_are_put_away() {
    let mut desk = Desk::jobs();
    let watch = desk
        .requests
        .iter()
        .position(|request| request.purpose == Purpose::Alerts);
    let request = desk.requests.remove(watch.unwrap());
    desk.answer_to(&request, Ok(jobs()));
    assert!(desk.screen().contains("! failed today: 1"), "{}", desk.screen());
    desk.press("a");
    assert!(!desk.screen().contains("! failed today"));
    desk.pass(ALERTS_PAUSE);
    let watch = desk
        .requests
        .iter()
        .position(|request| request.purpose == Purpose::Alerts);
    let request = desk.requests.remove(watch.unwrap());
    let mut page = jobs();
    page.facts[1].1 = Cell::integer(2).tone(Tone::Bad);
    desk.answer_to(&request, Ok(page));
    assert!(desk.screen().contains("! failed today: 2"), "another one is told");
}

#[test]
fn pasted_text_presses_no_keys() {
    let mut desk = Desk::jobs();
    desk.tell(Event::Paste("q:quit\n".to_owned()));
    assert!(desk.effects.is_empty());
    desk.press("/");
    desk.tell(Event::Paste("failed\nq".to_owned()));
    assert_eq!(desk.order(), ["b2"]);
    assert!(desk.effects.is_empty());
}

#[test]
fn views_that_lie_on_each_other_are_bounded() {
    let mut desk = Desk::jobs();
    for _ in 0..100 {
        desk.press(":");
        desk.type_text("job a1");
        desk.press("enter");
    }
    assert_eq!(desk.app.screens().count(), SCREENS_MAX + 1);
    assert_eq!(desk.app.screens().next().unwrap().view.name, "jobs");
}

#[test]
fn a_page_that_is_too_large_is_cut_to_its_newest_lines() {
    let long = Line {
        at: None,
        text: "é".repeat(1 << 20),
        tone: Tone::Plain,
    };
    let page = Page {
        text: std::iter::repeat_n(long, 3)
            .chain(logs(100_000).text.into_iter().map(|line| Line {
                text: line.text.chars().take(60).collect(),
                ..line
            }))
            .collect(),
        rows: vec![row("x", "y", None, Tone::Plain); 5000],
        ..jobs()
    };
    let page = screen::bounded(page);
    assert_eq!((page.text.len(), page.rows.len()), (screen::LINES_MAX, ROWS_MAX));
    assert!(page.text.last().unwrap().text.starts_with("line 99999"));
}

/// Text of somebody who wants the terminal.
const HOSTILE: &[&str] = &[
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "\u{9b}2J\u{90}q\u{9c}",
    "\u{202e}txt.exe\u{2066}",
    "a\u{200b}\u{feff}\u{ad}b",
    "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
    "👩\u{200d}👩\u{200d}👧\u{fe0f}🏳\u{fe0f}\u{200d}🌈",
    "e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}",
    "שלום עליכם مرحبا بالعالم",
    "\r\n\t\0\u{7}\u{8}\u{7f}",
    "\u{1160}\u{115f}\u{3164}\u{e0001}\u{e0041}",
];

fn hostile() -> Page {
    let long: String = HOSTILE.concat().repeat((1 << 20) / HOSTILE.concat().len());
    let texts: Vec<&str> = HOSTILE.iter().copied().chain([long.as_str()]).collect();
    Page {
        facts: texts.iter().map(|text| ("fact", Cell::text(*text))).collect(),
        charts: vec![
            Chart {
                title: "chart",
                bars: texts.iter().map(|text| ((*text).to_owned(), f64::NAN)).collect(),
            },
            Chart {
                title: "chart",
                bars: vec![(texts[4].to_owned(), f64::INFINITY), (texts[0].to_owned(), -1.0)],
            },
        ],
        columns: columns(),
        rows: texts
            .iter()
            .map(|text| Row {
                key: (*text).into(),
                // Fewer cells than columns, and of the wrong kinds.
                cells: vec![Cell::text(*text), Cell::text(*text)],
            })
            .collect(),
        older: Some(texts[0].to_owned()),
        text: texts
            .iter()
            .map(|text| Line {
                at: None,
                text: (*text).to_owned(),
                tone: Tone::Plain,
            })
            .collect(),
        empty: "nothing",
    }
}

fn assert_tame(desk: &Desk, what: &str) {
    let buffer = frame(&desk.app);
    for cell in buffer.content() {
        let symbol = cell.symbol();
        let mut characters = symbol.chars();
        let first = characters.next().unwrap_or(' ');
        assert!(!first.is_control(), "{what}: {symbol:?}");
        let wide = crate::tui::tame::columns(symbol);
        assert!((1..=2).contains(&wide), "{what}: {symbol:?} has {wide} columns");
        assert_eq!(crate::tui::tame::tame(symbol, 2), symbol, "{what}: {symbol:?}");
    }
}

/// Every state that a screen may be in, with words for it.
fn states() -> Vec<(&'static str, Desk)> {
    let with = |view, result: Option<Result<Page, LoadError>>, keys: &str| {
        let mut desk = Desk::at(view, (100, 30));
        if let Some(result) = result {
            desk.answer(result);
        }
        if !keys.is_empty() {
            desk.press(keys);
        }
        desk
    };
    let broken = || {
        Err(LoadError::Database {
            database: "miner.sqlite".to_owned(),
            reason: HOSTILE.concat(),
        })
    };
    let empty = || Page {
        empty: "no job yet: `horde job submit` makes one",
        ..Page::default()
    };
    let both = || Page {
        text: logs(50).text,
        ..charted()
    };
    vec![
        ("loading", with(1, None, "")),
        ("empty", with(1, Some(Ok(empty())), "")),
        (
            "empty table",
            with(
                1,
                Some(Ok(Page {
                    columns: columns(),
                    ..empty()
                })),
                "",
            ),
        ),
        ("error", with(1, Some(broken()), "")),
        ("full", with(1, Some(Ok(jobs())), "")),
        ("charts", with(1, Some(Ok(charted())), "")),
        ("both", with(1, Some(Ok(both())), "down space s")),
        ("text", with(3, Some(Ok(logs(200))), "")),
        ("wrapped", with(3, Some(Ok(logs(200))), "W up")),
        ("hostile", with(1, Some(Ok(hostile())), "")),
        ("hostile expanded", with(1, Some(Ok(hostile())), "w z W")),
        ("hostile row", with(1, Some(Ok(hostile())), "G enter")),
        ("help", with(1, Some(Ok(jobs())), "?")),
        ("palette", with(1, Some(Ok(jobs())), ": t")),
        ("filter", with(1, Some(Ok(jobs())), "/ c")),
        ("past", with(1, Some(Ok(jobs())), "{")),
    ]
}

#[test]
fn no_size_and_no_state_panics_and_no_text_of_strangers_reaches_the_terminal() {
    let mut sizes = vec![(1, 1), (2, 3), (5, 1), (1, 50)];
    sizes.extend([
        (20, 5),
        (59, 16),
        (60, 15),
        (60, 16),
        (61, 17),
        (80, 24),
        (97, 31),
        (300, 100),
    ]);
    sizes.extend((20..=300).step_by(40).map(|width| (width, width / 3)));
    for (name, mut desk) in states() {
        for theme in Theme::ALL {
            desk.app.theme = theme;
            assert_tame(&desk, name);
        }
        for (width, height) in &sizes {
            desk.tell(Event::Resize(*width, *height));
            assert_tame(&desk, &format!("{name} at {width}×{height}"));
            desk.press("down pagedown right G up");
            desk.mouse(MouseEventKind::ScrollDown, width / 2, height / 2);
            desk.click(width / 2, height / 2);
            frame(&desk.app);
            desk.app.ascii = true;
            let buffer = frame(&desk.app);
            assert!(
                buffer.content().iter().all(|cell| cell.symbol().is_ascii()),
                "{name}"
            );
            desk.app.ascii = false;
        }
    }
}

#[test]
fn every_real_view_is_drawn_at_every_size_with_and_without_a_page() {
    for view in VIEWS {
        for page in [None, Some(jobs()), Some(hostile()), Some(Page::default())] {
            let mut desk = Desk::at(0, (100, 30));
            desk.app.views = VIEWS;
            desk.app.base = Screen::new(view, None);
            desk.tell(Event::Tick);
            if let Some(page) = page {
                desk.answer(Ok(page));
            }
            for (width, height) in [(1, 1), (20, 5), (60, 16), (80, 24), (300, 100)] {
                desk.tell(Event::Resize(width, height));
                assert_tame(&desk, view.name);
            }
        }
    }
}

#[test]
fn screens_look_as_they_do() {
    for (name, desk) in states() {
        if name.starts_with("hostile") {
            continue;
        }
        let mut desk = desk;
        for (width, height) in [(60, 16), (100, 30), (140, 40)] {
            desk.tell(Event::Resize(width, height));
            insta::assert_snapshot!(
                format!("{} {width}x{height}", name.replace(' ', "_")).replace(' ', "_"),
                desk.screen()
            );
        }
    }
}

#[test]
fn values_of_every_kind_become_json_as_what_they_are() {
    let time = Cell {
        value: Value::Time(Timestamp::new(NOON)),
        ..Cell::text("12:00")
    };
    let ratio = Cell {
        value: Value::Number(0.5),
        ..Cell::text("50 %")
    };
    let told: Vec<_> = [Cell::nothing(), Cell::integer(3), ratio, time, Cell::text("x")]
        .iter()
        .map(|cell| take::json_of(cell).to_string())
        .collect();
    assert_eq!(told, ["null", "3", "0.5", "\"2026-11-25T12:00:00Z\"", "\"x\""]);
}
