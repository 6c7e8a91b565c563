//! Where everything stands on the screen: pure geometry, for drawing, scrolling and the mouse.

use ratatui::layout::Rect;

use crate::tui::app::screen::{CELL_COLUMNS_MAX, Panel, Screen};
use crate::tui::tame;
use crate::tui::view::Page;

/// The smallest screen that the dashboard is drawn on.
pub const WIDTH_MIN: u16 = 60;
/// The smallest screen that the dashboard is drawn on.
pub const HEIGHT_MIN: u16 = 16;

/// Columns left of the table, for the mark.
pub const GUTTER: u16 = 2;

/// Columns between two columns of the table.
const GAP: u16 = 2;

/// Width that a column of the table keeps when others need room.
const COLUMN_MIN: u16 = 14;

/// Rows of a chart, with its title.
pub const CHART_ROWS: u16 = 7;

/// Columns of a chart at least.
const CHART_COLUMNS: u16 = 36;

/// Columns that times before lines take, with the space after them.
pub const TIME_COLUMNS: u16 = 9;

/// Where the parts of the screen stand; what is not shown has no height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Roles, context, clock.
    pub header: Rect,
    /// The tabs of the views.
    pub tabs: Rect,
    /// The view with its border.
    pub body: Rect,
    /// Within its border.
    pub inner: Rect,
    /// Names and values.
    pub facts: Rect,
    /// Facts that stand side by side.
    pub fact_columns: u16,
    /// Charts.
    pub charts: Rect,
    /// Charts that stand side by side.
    pub chart_columns: u16,
    /// The table with its heading.
    pub table: Rect,
    /// The line above the text.
    pub rule: Rect,
    /// The text.
    pub text: Rect,
    /// Alerts and news.
    pub alert: Rect,
    /// Keys, or what is typed.
    pub footer: Rect,
}

/// A column of the table at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which one of the page's columns.
    pub at: usize,
    /// Its left edge on the screen.
    pub x: u16,
    /// Its width.
    pub width: u16,
}

impl Layout {
    /// Lays the screen out; none if it is too small.
    pub fn new(area: Rect, screen: &Screen) -> Option<Self> {
        if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
            return None;
        }
        let line = |y: u16| Rect::new(area.x, area.y + y, area.width, 1);
        let body = Rect::new(area.x, area.y + 2, area.width, area.height - 4);
        let inner = Rect::new(body.x + 1, body.y + 1, body.width - 2, body.height - 2);
        let mut layout = Self {
            header: line(0),
            tabs: line(1),
            body,
            inner,
            alert: line(area.height - 2),
            footer: line(area.height - 1),
            fact_columns: 1,
            chart_columns: 1,
            ..Self::default()
        };
        if let Some(page) = screen.page.as_deref() {
            layout.fact_columns = fact_columns(page, inner.width);
            layout.chart_columns = (inner.width / CHART_COLUMNS).max(1);
            layout.stack(page, screen);
        }
        Some(layout)
    }

    /// Gives each panel its rows.
    fn stack(&mut self, page: &Page, screen: &Screen) {
        let panels = screen.panels();
        let has = |panel| panels.contains(&panel) && (!screen.is_expanded || panel == screen.focus());
        let has_rest = has(Panel::Table) || has(Panel::Text);
        let mut left = self.inner;
        if has(Panel::Facts) {
            let wanted = u16::try_from(self.fact_rows(page)).unwrap_or(u16::MAX);
            let most = if has_rest {
                (left.height / 3).max(2)
            } else {
                left.height
            };
            self.facts = take(&mut left, wanted.min(most));
            self.gap(&mut left);
        }
        if has(Panel::Charts) {
            let per_row = usize::from(self.chart_columns);
            let wanted = u16::try_from(page.charts.len().div_ceil(per_row)).unwrap_or(u16::MAX);
            let wanted = wanted.saturating_mul(CHART_ROWS);
            let most = match has_rest {
                true if left.height < CHART_ROWS * 2 => 0,
                true => CHART_ROWS,
                false => left.height,
            };
            self.charts = take(&mut left, wanted.min(most));
            if self.charts.height > 0 {
                self.gap(&mut left);
            }
        }
        if has(Panel::Table) {
            let wanted = u16::try_from(screen.order.len().max(1) + 1).unwrap_or(u16::MAX);
            let most = if has(Panel::Text) {
                (left.height / 2).max(3)
            } else {
                left.height
            };
            let height = if has(Panel::Text) { wanted.min(most) } else { most };
            self.table = take(&mut left, height);
        }
        if has(Panel::Text) {
            self.rule = take(&mut left, 1);
            self.text = Rect::new(left.x + 1, left.y, left.width.saturating_sub(1), left.height);
        }
    }

    /// Leaves a row free where there is room for it.
    fn gap(&self, left: &mut Rect) {
        if self.inner.height >= HEIGHT_MIN {
            take(left, 1);
        }
    }

    /// Returns the rows of the table without its heading.
    pub fn table_rows(&self) -> u16 {
        self.table.height.saturating_sub(1)
    }

    /// Returns the rows that all facts take.
    pub fn fact_rows(&self, page: &Page) -> usize {
        page.facts.len().div_ceil(usize::from(self.fact_columns.max(1)))
    }

    /// Returns the columns that a line of text has.
    pub fn line_width(&self, page: &Page, shows_times: bool) -> usize {
        let times = if shows_times && page.text.iter().any(|line| line.at.is_some()) {
            TIME_COLUMNS
        } else {
            0
        };
        usize::from(self.text.width.saturating_sub(times).max(1))
    }

    /// Places the columns of the table: those of the highest rank leave first, long ones are cut before that.
    pub fn columns(&self, page: &Page, screen: &Screen) -> Vec<Placed> {
        let width = self.table.width.saturating_sub(GUTTER);
        let wish = |at: usize| screen.widths.get(at).copied().unwrap_or(COLUMN_MIN);
        let shown = |at: &usize| *at == 0 || *at > screen.shift;
        let mut kept: Vec<usize> = (0..page.columns.len()).filter(shown).collect();
        let least = |kept: &[usize]| -> u16 {
            let sum = kept
                .iter()
                .map(|at| wish(*at).min(COLUMN_MIN).saturating_add(GAP));
            sum.fold(0, u16::saturating_add).saturating_sub(GAP)
        };
        while least(&kept) > width {
            let rank = |at: usize| page.columns.get(at).map_or(0, |column| column.rank);
            let Some(place) = (0..kept.len())
                .filter(|place| kept.get(*place).is_some_and(|at| rank(*at) > 0))
                .max_by_key(|place| kept.get(*place).map_or(0, |at| rank(*at)))
            else {
                break;
            };
            kept.remove(place);
        }
        let mut spare = width.saturating_sub(least(&kept));
        let mut x = self.table.x + GUTTER;
        let right = self.table.right();
        let mut placed = Vec::new();
        for at in kept {
            let least = wish(at).min(COLUMN_MIN);
            let more = (wish(at).min(CELL_COLUMNS_MAX) - least).min(spare);
            spare -= more;
            let width = (least + more).min(right.saturating_sub(x));
            if width > 0 {
                placed.push(Placed { at, x, width });
            }
            x = x.saturating_add(least + more + GAP);
        }
        placed
    }
}

/// Takes rows from the top.
fn take(left: &mut Rect, height: u16) -> Rect {
    let height = height.min(left.height);
    let taken = Rect { height, ..*left };
    left.y += height;
    left.height -= height;
    taken
}

/// Widths of a fact between which columns are made.
const FACT_COLUMNS: std::ops::RangeInclusive<usize> = 24..=56;

fn fact_columns(page: &Page, width: u16) -> u16 {
    let most = *FACT_COLUMNS.end();
    let names = page.facts.iter().map(|(name, _)| tame::width(name, most));
    let values = page.facts.iter().map(|(_, cell)| tame::width(&cell.text, most));
    let one = names.max().unwrap_or(0) + values.max().unwrap_or(0) + 4;
    let one = one.clamp(*FACT_COLUMNS.start(), most);
    (width / u16::try_from(one).unwrap_or(u16::MAX)).clamp(1, 4)
}
