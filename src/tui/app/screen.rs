//! One view that is open: its page, and what the person at the screen has made of it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::filter::Filter;
use crate::tui::draw::layout::Layout;
use crate::tui::event::Now;
use crate::tui::tame;
use crate::tui::view::{Ask, Cell, LoadError, Page, ROWS_MAX, Value, View};

/// Columns of a line of text that can be scrolled to.
pub const LINE_COLUMNS_MAX: usize = 4096;

/// Columns that the widest cell of a table takes at most; what is longer is cut.
pub const CELL_COLUMNS_MAX: u16 = 64;

/// Lines of text that one page keeps: the newest.
pub const LINES_MAX: usize = 10_000;

/// Bytes of text that one page keeps: 8 MiB.
pub const TEXT_MAX: usize = 8 << 20;

/// Bytes that one line keeps: 16 KiB.
pub const LINE_MAX: usize = 16 << 10;

/// Bytes that one cell keeps: 4 KiB.
pub const CELL_MAX: usize = 4 << 10;

/// Characters that one key scrolls text to the side.
const SIDE_STEP: isize = 8;

/// Facts, charts and columns that a page has at most.
const PARTS_MAX: usize = 200;

/// A part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// Names and values.
    Facts,
    /// Charts.
    Charts,
    /// The table.
    Table,
    /// Lines of text.
    Text,
}

impl Panel {
    /// All of them, from top to bottom.
    pub const ALL: [Self; 4] = [Self::Facts, Self::Charts, Self::Table, Self::Text];
}

/// A view that is open.
#[derive(Debug)]
pub struct Screen {
    /// The view.
    pub view: &'static View,
    /// What it is asked for.
    pub ask: Ask,
    /// The cursors of the newer pages that were left for an older one.
    pub newer: Vec<Option<String>>,
    /// What it shows; none before the first answer.
    pub page: Option<Arc<Page>>,
    /// When that was read.
    pub read: Option<Now>,
    /// How long it is not read again, because reading it takes time.
    pub rest: Duration,
    /// Why the last reading failed, if it did.
    pub failure: Option<LoadError>,
    /// How many readings have failed one after another.
    pub failures: u32,
    /// When the last answer came, good or bad, since the start.
    pub tried: Option<Duration>,
    /// Whether another page than the shown one is to be read at once.
    pub is_wanted: bool,
    /// The column that is sorted by, and whether the greatest comes first.
    pub sort: Option<(usize, bool)>,
    /// What rows and lines must match.
    pub filter: Option<Filter>,
    /// What is looked for.
    pub search: Option<Filter>,
    /// The rows that are shown, in their order.
    pub order: Vec<usize>,
    /// The lines that are shown.
    pub lines: Vec<usize>,
    /// Where in `order` the selection is.
    pub cursor: usize,
    /// The key of the selected row.
    pub selected: Option<Arc<str>>,
    /// Keys of the marked rows.
    pub marks: BTreeSet<Arc<str>>,
    /// The panel that keys go to; by default the one that has most to show.
    pub panel: Option<Panel>,
    /// Whether that panel has all the room.
    pub is_expanded: bool,
    /// The first row, fact, chart or line that is shown, per panel.
    pub top: [usize; 4],
    /// Columns of characters that text is scrolled to the right.
    pub left: usize,
    /// Columns of the table that are hidden behind the first one.
    pub shift: usize,
    /// Whether the end of the text is shown as it grows.
    pub follows: bool,
    /// The width that each column would like.
    pub widths: Vec<u16>,
}

impl Screen {
    /// Opens a view.
    pub fn new(view: &'static View, key: Option<String>) -> Self {
        Self {
            view,
            ask: Ask {
                key,
                rows_max: ROWS_MAX,
                ..Ask::default()
            },
            newer: Vec::new(),
            page: None,
            read: None,
            rest: Duration::ZERO,
            failure: None,
            failures: 0,
            tried: None,
            is_wanted: true,
            sort: None,
            filter: None,
            search: None,
            order: Vec::new(),
            lines: Vec::new(),
            cursor: 0,
            selected: None,
            marks: BTreeSet::new(),
            panel: None,
            is_expanded: false,
            top: [0; 4],
            left: 0,
            shift: 0,
            follows: true,
            widths: Vec::new(),
        }
    }

    /// Takes a page that was read; tells whether it is another one than before.
    pub fn accept(&mut self, page: Page, rest: Duration, now: Now) -> bool {
        let page = bounded(page);
        let was_failing = self.failure.take().is_some();
        self.failures = 0;
        self.read = Some(now);
        self.tried = Some(now.steady);
        self.rest = rest;
        if self.page.as_deref() == Some(&page) {
            return was_failing;
        }
        let held = (!self.follows).then(|| self.held_line()).flatten();
        self.widths = widths(&page);
        self.page = Some(Arc::new(page));
        self.rearrange();
        if let Some(line) = held {
            self.hold(&line);
        }
        true
    }

    /// Takes note that reading failed; the last page stays.
    pub fn fail(&mut self, error: LoadError, now: Now) {
        self.failure = Some(error);
        self.tried = Some(now.steady);
        self.failures = self.failures.saturating_add(1);
    }

    /// Asks for other rows of the same thing, which are shown from their top.
    pub fn turn(&mut self) {
        self.is_wanted = true;
        self.top = [0; 4];
        self.cursor = 0;
        self.selected = None;
    }

    /// The text of the first line that is shown, with its time.
    fn held_line(&self) -> Option<crate::tui::view::Line> {
        let page = self.page.as_deref()?;
        let at = self.lines.get(self.top_of(Panel::Text))?;
        page.text.get(*at).cloned()
    }

    /// Keeps a line where it was while the text around it has grown or lost its beginning.
    fn hold(&mut self, line: &crate::tui::view::Line) {
        let Some(page) = self.page.clone() else { return };
        let before = self.top_of(Panel::Text);
        let nearest = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, at)| page.text.get(**at) == Some(line))
            .min_by_key(|(place, _)| place.abs_diff(before));
        if let Some((place, _)) = nearest {
            self.set_top(Panel::Text, place);
        }
    }

    /// Finds rows and lines that match, sorts them, and keeps the selection on its row.
    pub fn rearrange(&mut self) {
        let Some(page) = self.page.clone() else { return };
        let filter = self.filter.as_ref();
        self.order = (0..page.rows.len())
            .filter(|at| {
                let row = page.rows.get(*at);
                row.is_some_and(|row| filter.is_none_or(|filter| filter.row(&page.columns, row)))
            })
            .collect();
        if let Some((column, descends)) = self.sort.filter(|(column, _)| *column < page.columns.len()) {
            let cell = |at: usize| page.rows.get(at).and_then(|row| row.cells.get(column));
            self.order.sort_by(|a, b| compare(cell(*a), cell(*b), descends));
        }
        self.lines = (0..page.text.len())
            .filter(|at| {
                let line = page.text.get(*at);
                line.is_some_and(|line| filter.is_none_or(|filter| filter.line(line)))
            })
            .collect();
        let kept = self.selected.as_ref().and_then(|key| {
            self.order
                .iter()
                .position(|at| page.rows.get(*at).is_some_and(|row| row.key == *key))
        });
        self.cursor = kept.unwrap_or_else(|| self.cursor.min(self.order.len().saturating_sub(1)));
        self.selected = self.row_at(self.cursor).map(|row| Arc::clone(&row.key));
        let keys: BTreeSet<_> = page.rows.iter().map(|row| &row.key).collect();
        self.marks.retain(|key| keys.contains(key));
    }

    /// Returns the row at a place in the order shown.
    pub fn row_at(&self, place: usize) -> Option<&crate::tui::view::Row> {
        let at = self.order.get(place)?;
        self.page.as_deref()?.rows.get(*at)
    }

    /// Returns the panels that there are.
    pub fn panels(&self) -> Vec<Panel> {
        let Some(page) = self.page.as_deref() else {
            return Vec::new();
        };
        let has = |panel: &Panel| match panel {
            Panel::Facts => !page.facts.is_empty(),
            Panel::Charts => !page.charts.is_empty(),
            Panel::Table => !page.columns.is_empty() && (page.text.is_empty() || !page.rows.is_empty()),
            Panel::Text => !page.text.is_empty(),
        };
        Panel::ALL.into_iter().filter(has).collect()
    }

    /// Returns the panel that keys go to.
    pub fn focus(&self) -> Panel {
        let panels = self.panels();
        let chosen = self.panel.filter(|panel| panels.contains(panel));
        let usual = [Panel::Table, Panel::Text, Panel::Charts, Panel::Facts];
        chosen
            .or_else(|| usual.into_iter().find(|panel| panels.contains(panel)))
            .unwrap_or(Panel::Table)
    }

    /// Goes to the next panel.
    pub fn next_panel(&mut self) {
        let panels = self.panels();
        let at = panels
            .iter()
            .position(|panel| *panel == self.focus())
            .unwrap_or(0);
        self.panel = panels.iter().copied().cycle().nth(at + 1);
    }

    /// Returns the first row, fact, chart or line of a panel that is shown.
    pub fn top_of(&self, panel: Panel) -> usize {
        let [facts, charts, table, text] = self.top;
        match panel {
            Panel::Facts => facts,
            Panel::Charts => charts,
            Panel::Table => table,
            Panel::Text => text,
        }
    }

    fn set_top(&mut self, panel: Panel, top: usize) {
        let [facts, charts, table, text] = &mut self.top;
        *match panel {
            Panel::Facts => facts,
            Panel::Charts => charts,
            Panel::Table => table,
            Panel::Text => text,
        } = top;
    }

    /// Moves the selection, or scrolls where there is none.
    pub fn go(&mut self, by: isize) {
        match self.focus() {
            Panel::Table => self.select(self.cursor.saturating_add_signed(by)),
            Panel::Text => {
                self.follows = false;
                self.set_top(Panel::Text, self.top_of(Panel::Text).saturating_add_signed(by));
            }
            panel => self.set_top(panel, self.top_of(panel).saturating_add_signed(by)),
        }
    }

    /// Scrolls to the side: text by characters, a table by columns.
    pub fn scroll(&mut self, by: isize) {
        match self.focus() {
            Panel::Text => self.left = self.left.saturating_add_signed(by * SIDE_STEP),
            _ => self.shift = self.shift.saturating_add_signed(by),
        }
    }

    /// Goes to the end; text is followed from there.
    pub fn go_to_end(&mut self) {
        match self.focus() {
            Panel::Text => self.follows = true,
            _ => self.go(isize::MAX / 2),
        }
    }

    /// Selects a row by its place in the order shown.
    pub fn select(&mut self, place: usize) {
        self.cursor = place.min(self.order.len().saturating_sub(1));
        self.selected = self.row_at(self.cursor).map(|row| Arc::clone(&row.key));
    }

    /// Shows a line of text, by its place in those shown.
    pub fn show_line(&mut self, place: usize) {
        self.follows = false;
        self.set_top(Panel::Text, place);
    }

    /// Brings what is scrolled to within what there is and what has room.
    pub fn settle(&mut self, layout: &Layout, wraps: bool, shows_times: bool) {
        let height = usize::from(layout.table_rows());
        let last = self.order.len().saturating_sub(1);
        self.cursor = self.cursor.min(last);
        let top = self.top_of(Panel::Table);
        let top = top
            .max((self.cursor + 1).saturating_sub(height.max(1)))
            .min(self.cursor)
            .min(self.order.len().saturating_sub(height));
        self.set_top(Panel::Table, top);
        let tail = self.tail(layout, wraps, shows_times);
        let top = if self.follows {
            tail
        } else {
            self.top_of(Panel::Text).min(tail)
        };
        self.set_top(Panel::Text, top);
        let (facts, charts) = self
            .page
            .as_deref()
            .map_or((0, 0), |page| (layout.fact_rows(page), page.charts.len()));
        let facts = facts.saturating_sub(usize::from(layout.facts.height));
        self.set_top(Panel::Facts, self.top_of(Panel::Facts).min(facts));
        let charts = charts.saturating_sub(1);
        self.set_top(Panel::Charts, self.top_of(Panel::Charts).min(charts));
        self.left = self.left.min(LINE_COLUMNS_MAX);
        self.shift = self.shift.min(self.widths.len().saturating_sub(2));
    }

    /// Returns the first line of the last ones that have room.
    fn tail(&self, layout: &Layout, wraps: bool, shows_times: bool) -> usize {
        let Some(page) = self.page.as_deref() else {
            return 0;
        };
        let room = usize::from(layout.text.height);
        if !wraps {
            return self.lines.len().saturating_sub(room);
        }
        let width = layout.line_width(page, shows_times);
        let mut used = 0;
        let mut first = self.lines.len();
        for at in self.lines.iter().rev() {
            let text = page.text.get(*at).map_or("", |line| line.text.as_str());
            used += tame::width(text, LINE_COLUMNS_MAX).div_ceil(width).max(1);
            if used > room {
                break;
            }
            first -= 1;
        }
        // The last line is shown even where it has more rows than there is room.
        first.min(self.lines.len().saturating_sub(1))
    }
}

/// Compares cells for sorting: what is nothing stands at the end either way.
fn compare(a: Option<&Cell>, b: Option<&Cell>, descends: bool) -> Ordering {
    let is_nothing = |cell: Option<&Cell>| cell.is_none_or(|cell| cell.value == Value::Nothing);
    match (is_nothing(a), is_nothing(b)) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let (Some(a), Some(b)) = (a, b) else {
        return Ordering::Equal;
    };
    let ordering = match (&a.value, &b.value) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Time(a), Value::Time(b)) => a.moment().cmp(&b.moment()),
        (Value::Text | Value::Whole(_), Value::Text | Value::Whole(_)) => {
            a.whole().to_lowercase().cmp(&b.whole().to_lowercase())
        }
        (a, b) => number(a).total_cmp(&number(b)),
    };
    if descends { ordering.reverse() } else { ordering }
}

fn number(value: &Value) -> f64 {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "for comparing with a ratio")]
        Value::Integer(value) => *value as f64,
        Value::Number(value) => *value,
        Value::Nothing | Value::Text | Value::Whole(_) | Value::Time(_) => f64::INFINITY,
    }
}

/// Returns how wide each column would like to be.
fn widths(page: &Page) -> Vec<u16> {
    let most = usize::from(CELL_COLUMNS_MAX);
    let width = |text: &str| u16::try_from(tame::width(text, most)).unwrap_or(CELL_COLUMNS_MAX);
    page.columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            // A sorted column has its arrow beside its name.
            let heading = width(column.name) + 2;
            let cells = page.rows.iter().filter_map(|row| row.cells.get(at));
            cells.map(|cell| width(&cell.text)).fold(heading, u16::max)
        })
        .collect()
}

/// Cuts a page to the sizes that one may have.
pub fn bounded(mut page: Page) -> Page {
    page.facts.truncate(PARTS_MAX);
    page.charts.truncate(PARTS_MAX);
    page.columns.truncate(PARTS_MAX);
    page.rows.truncate(ROWS_MAX);
    let cells = page.rows.iter_mut().flat_map(|row| row.cells.iter_mut());
    for cell in cells.chain(page.facts.iter_mut().map(|(_, cell)| cell)) {
        cut(&mut cell.text, CELL_MAX);
        if let Value::Whole(text) = &mut cell.value {
            cut(text, CELL_MAX);
        }
    }
    for chart in &mut page.charts {
        chart.bars.truncate(ROWS_MAX);
        for (label, _) in &mut chart.bars {
            cut(label, CELL_MAX);
        }
    }
    let mut bytes = 0;
    let mut kept = 0;
    for line in page.text.iter_mut().rev() {
        cut(&mut line.text, LINE_MAX);
        bytes += line.text.len();
        if bytes > TEXT_MAX || kept == LINES_MAX {
            break;
        }
        kept += 1;
    }
    let old = page.text.len() - kept;
    page.text.drain(..old);
    page
}

fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.shrink_to_fit();
        text.push('…');
    }
}
