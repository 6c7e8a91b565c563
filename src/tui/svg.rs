//! A frame as a picture: SVG, with the colours of the theme, for documents and bug reports.

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::tame::columns;
use super::theme::Theme;

/// Pixels of a column and of a row.
const COLUMN: f32 = 8.4;
const ROW: f32 = 17.0;

/// Pixels around the frame.
const MARGIN: f32 = 10.0;

/// Size of the letters in pixels, and where in a row they stand.
const FONT: f32 = 14.0;
const BASELINE: f32 = 13.0;

/// The sixteen colours that every terminal has, as most have them.
const SIXTEEN: [u32; 16] = [
    0x1d_1f_21, 0xcc_3e_44, 0x4e_9a_06, 0xc4_a0_00, 0x34_65_a4, 0x75_50_7b, 0x06_98_9a, 0xd3_d7_cf,
    0x7c_7f_7c, 0xef_5b_5b, 0x8a_e2_34, 0xfc_e9_4f, 0x72_9f_cf, 0xad_7f_a8, 0x34_e2_e2, 0xff_ff_ff,
];

/// Returns a frame as a picture.
pub fn svg(buffer: &Buffer, theme: Theme) -> String {
    let (ink, paper) = match theme {
        Theme::Light => (0x1f_23_28, 0xff_ff_ff),
        Theme::HighContrast => (0xff_ff_ff, 0x00_00_00),
        _ => (0xd8_da_e0, 0x16_18_1d),
    };
    let (width, height) = (
        f32::from(buffer.area.width) * COLUMN + 2.0 * MARGIN,
        f32::from(buffer.area.height) * ROW + 2.0 * MARGIN,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, \
         monospace\" font-size=\"{FONT}\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#{paper:06x}\"/>\n"
    );
    for y in buffer.area.top()..buffer.area.bottom() {
        line(buffer, y, ink, paper, &mut out);
    }
    out.push_str("</svg>\n");
    out
}

/// Cells of one look beside each other.
struct Stretch {
    x: u16,
    columns: usize,
    text: String,
    look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    ink: u32,
    paper: u32,
    bold: bool,
    underlined: bool,
    dim: bool,
}

fn look(cell: &Cell, ink: u32, paper: u32) -> Look {
    let (mut front, mut back) = (rgb(cell.fg, ink), rgb(cell.bg, paper));
    if cell.modifier.contains(Modifier::REVERSED) {
        std::mem::swap(&mut front, &mut back);
    }
    Look {
        ink: front,
        paper: back,
        bold: cell.modifier.contains(Modifier::BOLD),
        underlined: cell.modifier.contains(Modifier::UNDERLINED),
        dim: cell.modifier.contains(Modifier::DIM),
    }
}

fn line(buffer: &Buffer, y: u16, ink: u32, paper: u32, out: &mut String) {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut x = buffer.area.left();
    while x < buffer.area.right() {
        let Some(cell) = buffer.cell((x, y)) else { break };
        let wide = columns(cell.symbol()).max(1);
        let look = look(cell, ink, paper);
        match stretches.last_mut() {
            Some(last) if last.look == look => {
                last.text.push_str(cell.symbol());
                last.columns += wide;
            }
            _ => stretches.push(Stretch {
                x,
                columns: wide,
                text: cell.symbol().to_owned(),
                look,
            }),
        }
        x = x.saturating_add(u16::try_from(wide).unwrap_or(1));
    }
    let top = MARGIN + f32::from(y) * ROW;
    for stretch in stretches {
        draw(&stretch, top, paper, out);
    }
}

fn draw(stretch: &Stretch, top: f32, paper: u32, out: &mut String) {
    let left = MARGIN + f32::from(stretch.x) * COLUMN;
    let columns = u16::try_from(stretch.columns).unwrap_or(u16::MAX);
    let width = f32::from(columns) * COLUMN;
    let Look {
        ink,
        paper: back,
        bold,
        underlined,
        dim,
    } = stretch.look;
    if back != paper {
        out.extend([format!(
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{ROW}\" fill=\"#{back:06x}\"/>\n"
        )]);
    }
    if stretch.text.trim().is_empty() {
        return;
    }
    let mut style = String::new();
    for (is_on, words) in [
        (bold, " font-weight=\"bold\""),
        (underlined, " text-decoration=\"underline\""),
        (dim, " opacity=\"0.6\""),
    ] {
        if is_on {
            style.push_str(words);
        }
    }
    let baseline = top + BASELINE;
    out.extend([format!(
        "<text x=\"{left:.1}\" y=\"{baseline:.1}\" fill=\"#{ink:06x}\"{style} textLength=\"{width:.1}\" \
         lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{}</text>\n",
        escaped(&stretch.text)
    )]);
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn rgb(colour: Color, otherwise: u32) -> u32 {
    let number = match colour {
        Color::Reset => return otherwise,
        Color::Rgb(red, green, blue) => return u32::from_be_bytes([0, red, green, blue]),
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
        Color::Indexed(number) => number,
    };
    if let Some(colour) = SIXTEEN.get(usize::from(number)) {
        return *colour;
    }
    if number >= 232 {
        let grey = 8 + (number - 232) * 10;
        return u32::from_be_bytes([0, grey, grey, grey]);
    }
    // The cube of 6×6×6 colours of xterm.
    let level = |step: u8| if step == 0 { 0 } else { 55 + step * 40 };
    let cube = number - 16;
    u32::from_be_bytes([0, level(cube / 36), level(cube / 6 % 6), level(cube % 6)])
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;
    use crate::tui::tame::put;

    #[test]
    fn a_frame_becomes_a_picture_with_its_colours_and_nothing_of_it_is_markup() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        let area = buffer.area;
        put(
            &mut buffer,
            area,
            0,
            0,
            "<b>&\"",
            Style::new().fg(Color::Indexed(196)),
        );
        put(&mut buffer, area, 0, 1, "漢字", Style::new().bg(Color::Red));
        let picture = svg(&buffer, Theme::Dark);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(picture.contains("fill=\"#ff0000\"") && picture.contains("&lt;b&gt;&amp;\""));
        assert!(
            picture.contains(&format!("width=\"{:.1}\"", 4.0 * COLUMN)),
            "{picture}"
        );
    }

    #[test]
    fn the_numbers_of_colours_are_those_of_xterm() {
        for (number, colour) in [
            (16, 0),
            (21, 0x00_00_ff),
            (231, 0xff_ff_ff),
            (232, 0x08_08_08),
            (255, 0xee_ee_ee),
        ] {
            assert_eq!(rgb(Color::Indexed(number), 1), colour);
        }
        assert_eq!(rgb(Color::Reset, 1), 1);
    }
}
