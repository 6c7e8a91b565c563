//! Text of strangers, made harmless: the one gate through which text gets on the screen.
//!
//! Two walls stand behind each other. [`tame`] turns any text into characters that each take one or two columns, so that
//! widths can be counted on; [`sweep`] looks at every cell of a finished frame and lets nothing pass that could steer
//! the terminal or shift its grid, whoever drew it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthChar;

/// Marks (accents, vowel signs) that one character keeps; more would paint over the lines above it.
const MARKS_MAX: usize = 3;

/// Characters of a sequence that steers a terminal; what goes on for longer is none.
const SEQUENCE_MAX: usize = 4096;

/// Stands for what was taken out.
const TAKEN: char = '\u{fffd}';

/// Columns between the stops of a tab.
const TAB: usize = 8;

/// Returns the text as characters that each take one or two columns, cut after `columns_max` columns.
///
/// Colours are taken out, all else that steers a terminal becomes U+FFFD; so do characters that turn the direction of
/// text and those that hide between others. Ends of lines become spaces.
pub fn tame(text: &str, columns_max: usize) -> String {
    let mut out = Tame {
        text: String::with_capacity(text.len().min(columns_max)),
        columns: 0,
        columns_max,
        marks: MARKS_MAX,
    };
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if out.is_full() {
            break;
        }
        if matches!(
            c,
            '\u{1b}' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}' | '\u{9e}' | '\u{9f}'
        ) {
            let (skipped, is_colour) = sequence(c, rest.as_str());
            if !is_colour {
                out.push(TAKEN);
            }
            if skipped > 0 {
                rest.nth(skipped - 1);
            }
        } else {
            out.push(c);
        }
    }
    out.text
}

/// Returns the columns that a text takes once it is tame, counted no further than `columns_max`.
pub fn width(text: &str, columns_max: usize) -> usize {
    if text.len() <= columns_max && text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return text.len();
    }
    columns(&tame(text, columns_max))
}

/// Returns the columns of a tame text.
pub fn columns(tame: &str) -> usize {
    tame.chars().map(|c| c.width().unwrap_or(0)).sum()
}

struct Tame {
    text: String,
    columns: usize,
    columns_max: usize,
    /// Marks that the last character has.
    marks: usize,
}

impl Tame {
    fn is_full(&self) -> bool {
        self.columns >= self.columns_max
    }

    fn push(&mut self, c: char) {
        match c {
            '\t' => {
                let stop = (self.columns / TAB + 1) * TAB;
                while self.columns < stop && !self.is_full() {
                    self.put(' ', 1);
                }
            }
            '\n' | '\r' | '\u{2028}' | '\u{2029}' => self.put(' ', 1),
            c if is_joiner(c) => {}
            c if c.is_control() || is_hidden(c) => self.put(TAKEN, 1),
            c => match c.width() {
                Some(0) | None => self.mark(c),
                Some(width) => self.put(c, width),
            },
        }
    }

    fn put(&mut self, c: char, width: usize) {
        if self.columns + width > self.columns_max {
            // Half of a wide character cannot be shown.
            self.columns = self.columns_max;
            return;
        }
        self.text.push(c);
        self.columns += width;
        self.marks = 0;
    }

    fn mark(&mut self, c: char) {
        if self.marks < MARKS_MAX {
            self.text.push(c);
            self.marks += 1;
        }
    }
}

/// Tells how many characters after an introducer belong to its sequence, and whether it only sets colours.
fn sequence(introducer: char, rest: &str) -> (usize, bool) {
    let mut skipped = 0;
    let mut characters = rest.chars();
    let kind = if introducer == '\u{1b}' {
        skipped += 1;
        match characters.next() {
            Some(c @ ('[' | ']' | 'P' | 'X' | '^' | '_')) => c,
            _ => return (0, false),
        }
    } else if introducer == '\u{9b}' {
        '['
    } else {
        ']'
    };
    let mut last = '\0';
    for c in characters.take(SEQUENCE_MAX) {
        skipped += 1;
        let ends = match kind {
            '[' => ('\u{40}'..='\u{7e}').contains(&c),
            _ => matches!(c, '\u{7}' | '\u{9c}') || (last == '\u{1b}' && c == '\\'),
        };
        if ends {
            return (skipped, kind == '[' && c == 'm');
        }
        if kind == '[' && !(' '..='\u{3f}').contains(&c) {
            // No such sequence: what follows is text.
            return (usize::from(introducer == '\u{1b}'), false);
        }
        last = c;
    }
    (usize::from(introducer == '\u{1b}'), false)
}

/// Tells whether a character only joins or varies others: it is left out without a trace.
const fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Tells whether a character turns the direction of text, or hides between others.
const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e00ff}' | '\u{e01f0}'..='\u{e0fff}')
}

/// Writes a text of anybody into one line of `area` from `x` on; returns the column after it.
pub fn put(buffer: &mut Buffer, area: Rect, x: u16, y: u16, text: &str, style: Style) -> u16 {
    let area = area.intersection(buffer.area);
    if y < area.top() || y >= area.bottom() || x < area.left() || x >= area.right() {
        return x;
    }
    let tame = tame(text, usize::from(area.right() - x));
    put_tame(buffer, area, x, y, &tame, style)
}

/// Writes a text that is tame already.
pub(super) fn put_tame(buffer: &mut Buffer, area: Rect, mut x: u16, y: u16, tame: &str, style: Style) -> u16 {
    let mut symbol = String::new();
    let mut characters = tame.chars().peekable();
    while let Some(c) = characters.next() {
        let width = if c.width() == Some(2) { 2 } else { 1 };
        if x.saturating_add(width) > area.right() {
            break;
        }
        symbol.clear();
        symbol.push(c);
        while let Some(mark) = characters.next_if(|next| next.width() == Some(0)) {
            symbol.push(mark);
        }
        if let Some(cell) = buffer.cell_mut((x, y)) {
            cell.set_symbol(&symbol).set_style(style);
        }
        if width == 2
            && let Some(cell) = buffer.cell_mut((x + 1, y))
        {
            cell.set_symbol(" ").set_style(style);
        }
        x += width;
    }
    x
}

/// Looks at every cell of a frame and replaces what is not one character of one or two columns; with `ascii`, what is
/// not ASCII by something like it.
pub fn sweep(buffer: &mut Buffer, ascii: bool) {
    let right = buffer.area.right();
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut x = buffer.area.left();
        while x < right {
            let Some(cell) = buffer.cell_mut((x, y)) else {
                break;
            };
            let symbol = cell.symbol();
            if matches!(symbol.as_bytes(), [b' '..=b'~']) {
                x += 1;
                continue;
            }
            let tame = clean(symbol, ascii);
            let wide = columns(&tame) == 2;
            if wide && x + 1 == right {
                cell.set_symbol(" ");
            } else if tame != symbol {
                cell.set_symbol(&tame);
            }
            x += if wide { 2 } else { 1 };
        }
    }
}

fn clean(symbol: &str, ascii: bool) -> String {
    let mut text = tame(symbol, 2);
    let mut characters = text.chars();
    if let (Some(first), rest) = (characters.next(), characters.as_str())
        && columns(rest) > 0
    {
        // A cell holds one character; more would push the rest of the line aside.
        text = first.to_string();
    }
    if text.is_empty() || columns(&text) == 0 {
        return " ".to_owned();
    }
    if ascii && !text.is_ascii() {
        let wide = columns(&text) == 2;
        let like = text.chars().next().map_or('?', like);
        return if wide { "?".to_owned() } else { like.to_string() };
    }
    text
}

/// Returns an ASCII character that does the same on a screen.
fn like(c: char) -> char {
    match c {
        '─' | '━' | '═' | '╌' | '╴' | '╶' | '–' | '—' | '−' => '-',
        '│' | '┃' | '║' | '▏' | '▎' | '▍' => '|',
        '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '╭' | '╮' | '╰' | '╯' | '╔' | '╗' | '╚'
        | '╝' => '+',
        '█' | '▓' | '▉' | '▊' | '▋' | '▇' | '▆' => '#',
        '▒' | '▌' | '▅' | '▄' | '▃' => '=',
        '░' | '▂' | '▁' => '_',
        '▲' | '↑' => '^',
        '▼' | '↓' => 'v',
        '→' | '›' | '▶' | '►' => '>',
        '←' | '‹' | '◀' => '<',
        '·' | '…' => '.',
        '•' | '●' | '◆' | '✓' | '✔' => '*',
        '×' | '✗' | '✘' => 'x',
        '\u{a0}' => ' ',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_taken_out_and_text_stays() {
        for (text, expected) in [
            ("plain", "plain"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[2Jgone", "\u{fffd}gone"),
            ("\x1b]0;title\x07x", "\u{fffd}x"),
            ("\x1b]52;c;aGk=\x1b\\x", "\u{fffd}x"),
            ("\x1bP1$r\x1b\\x", "\u{fffd}x"),
            ("\u{9b}2Jx", "\u{fffd}x"),
            ("\u{9d}0;t\u{9c}x", "\u{fffd}x"),
            // Without an end it is no sequence: nothing may hide behind it.
            ("\x1b]0;hidden", "\u{fffd}0;hidden"),
            ("\x1b[31\u{1}x", "\u{fffd}31\u{fffd}x"),
            ("\x1b", "\u{fffd}"),
            ("\x1bc", "\u{fffd}c"),
            ("a\u{202e}b", "a\u{fffd}b"),
            ("a\u{200b}b\u{feff}", "a\u{fffd}b\u{fffd}"),
            ("a\tb", "a       b"),
            ("10%\r20%\n", "10% 20% "),
            ("👩\u{200d}👩", "👩👩"),
            ("❤\u{fe0f}", "❤"),
            ("zażółć", "zażółć"),
            ("שלום", "שלום"),
        ] {
            assert_eq!(tame(text, 80), expected, "{text:?}");
        }
    }

    #[test]
    fn marks_are_few_and_belong_to_a_character() {
        assert_eq!(tame("e\u{301}", 80), "e\u{301}");
        assert_eq!(tame("\u{301}e", 80), "e");
        let heap: String = std::iter::once('e').chain(['\u{301}'; 50]).collect();
        assert_eq!(tame(&heap, 80).chars().count(), 1 + MARKS_MAX);
    }

    #[test]
    fn text_is_cut_by_columns_and_a_wide_character_is_never_halved() {
        assert_eq!(tame("漢字", 3), "漢");
        assert_eq!(tame("漢字", 4), "漢字");
        assert_eq!(width("漢字", 80), 4);
        assert_eq!(width("abc", 80), 3);
        let long = "x".repeat(1 << 20);
        assert_eq!(tame(&long, 80).len(), 80);
        assert_eq!(width(&long, 80), 80);
    }

    #[test]
    fn no_cell_of_a_swept_frame_steers_or_shifts_the_terminal() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 2));
        for (x, symbol) in ["\x1b[2J", "漢字", "\u{202e}", "a\u{301}"].iter().enumerate() {
            buffer
                .cell_mut((u16::try_from(x).unwrap(), 0))
                .unwrap()
                .set_symbol(symbol);
        }
        buffer.cell_mut((3, 1)).unwrap().set_symbol("漢");
        sweep(&mut buffer, false);
        let symbols: Vec<_> = buffer
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        assert_eq!(
            symbols,
            ["\u{fffd}", "漢", "\u{202e}", "a\u{301}", " ", " ", " ", " "],
            "what stands behind a wide character is not sent to the terminal"
        );
        sweep(&mut buffer, true);
        assert!(buffer.content().iter().all(|cell| cell.symbol() != "漢"));
    }

    #[test]
    fn without_utf8_lines_and_bars_are_drawn_with_what_there_is() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 8, 1));
        let area = buffer.area;
        put(&mut buffer, area, 0, 0, "╭─│█…▲é✓", Style::new());
        sweep(&mut buffer, true);
        let line: String = buffer
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        assert_eq!(line, "+-|#.^?*");
    }
}
