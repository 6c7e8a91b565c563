//! How tones and the parts of the screen look: colours of each theme.

use ratatui::style::{Color, Modifier, Style};

use super::view::Tone;

/// A set of colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// For dark terminals.
    #[default]
    Dark,
    /// For light terminals.
    Light,
    /// For tired eyes and bad screens.
    HighContrast,
    /// Blue and orange in place of green and red: for those who cannot tell these apart.
    ColourBlind,
    /// With the sixteen colours that every terminal has.
    Sixteen,
    /// Without colours.
    None,
}

/// A part of the screen that is not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The line at the top.
    Header,
    /// The tab of the view that is shown.
    TabOn,
    /// The other tabs.
    TabOff,
    /// Lines around panels.
    Border,
    /// The lines around the panel that keys go to.
    BorderOn,
    /// Words in a border.
    Title,
    /// Headings of columns and names of facts.
    Heading,
    /// The row that keys go to.
    Selected,
    /// What a search has found.
    Match,
    /// Bars of charts.
    Bar,
    /// The word `MAINNET`.
    Mainnet,
    /// A key in the help and in the line at the bottom.
    Key,
}

/// Parts of `TERM` that tell of 256 colours or more.
const MANY: &[&str] = &[
    "256",
    "direct",
    "kitty",
    "alacritty",
    "foot",
    "wezterm",
    "ghostty",
];

/// What a terminal can show, as the environment tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// No colours: `NO_COLOR` is set, or it is a dumb terminal.
    None,
    /// The sixteen that every terminal has.
    Sixteen,
    /// 256 or more.
    Many,
}

impl Depth {
    /// Reads the variables `NO_COLOR`, `TERM` and `COLORTERM`, by a function that looks one up.
    pub fn of<'e>(variable: impl Fn(&str) -> Option<&'e str>) -> Self {
        let term = variable("TERM").unwrap_or_default();
        if variable("NO_COLOR").is_some() || term == "dumb" {
            Self::None
        } else if variable("COLORTERM").is_some() || MANY.iter().any(|name| term.contains(name)) {
            Self::Many
        } else {
            Self::Sixteen
        }
    }
}

impl Theme {
    /// All of them, in the order in which a key goes through them.
    pub const ALL: [Self; 6] = [
        Self::Dark,
        Self::Light,
        Self::HighContrast,
        Self::ColourBlind,
        Self::Sixteen,
        Self::None,
    ];

    /// Returns its word on the command line and in the palette.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dark => "dark",
            Self::Light => "light",
            Self::HighContrast => "high-contrast",
            Self::ColourBlind => "colour-blind",
            Self::Sixteen => "16",
            Self::None => "none",
        }
    }

    /// Finds the theme of a word.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|theme| theme.word() == word)
    }

    /// Returns the theme after this one.
    #[must_use]
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|theme| *theme == self).unwrap_or(0);
        Self::ALL.iter().copied().cycle().nth(at + 1).unwrap_or_default()
    }

    /// Returns the nearest theme that a terminal can show.
    #[must_use]
    pub fn within(self, depth: Depth) -> Self {
        match (depth, self) {
            (Depth::None, _) => Self::None,
            (Depth::Sixteen, Self::Dark | Self::Light | Self::ColourBlind) => Self::Sixteen,
            _ => self,
        }
    }

    /// Returns how the screen looks where nothing else is said.
    pub fn base(self) -> Style {
        match self {
            Self::HighContrast => Style::new().fg(Color::White).bg(Color::Black),
            _ => Style::new(),
        }
    }

    /// Returns how a value of this tone looks.
    pub fn tone(self, tone: Tone) -> Style {
        let base = self.base();
        let colour = match (self, tone) {
            (_, Tone::Plain) | (Self::None, Tone::Good | Tone::Busy) => return base,
            (Self::None, Tone::Faint) => return base.add_modifier(Modifier::DIM),
            (Self::None, Tone::Warning | Tone::Bad) => return base.add_modifier(Modifier::BOLD),
            (Self::Dark | Self::ColourBlind, Tone::Faint) => Color::Indexed(245),
            (Self::Dark, Tone::Good) => Color::Indexed(114),
            (Self::Dark, Tone::Busy) | (Self::ColourBlind, Tone::Good) => Color::Indexed(75),
            (Self::Dark, Tone::Warning) => Color::Indexed(215),
            (Self::Dark, Tone::Bad) => Color::Indexed(203),
            (Self::Light, Tone::Faint) => Color::Indexed(242),
            (Self::Light, Tone::Good) => Color::Indexed(28),
            (Self::Light, Tone::Busy) => Color::Indexed(25),
            (Self::Light, Tone::Warning) => Color::Indexed(130),
            (Self::Light, Tone::Bad) => Color::Indexed(160),
            (Self::ColourBlind, Tone::Busy) => Color::Indexed(183),
            (Self::ColourBlind, Tone::Warning) => Color::Indexed(228),
            (Self::ColourBlind, Tone::Bad) => Color::Indexed(208),
            (Self::HighContrast, Tone::Faint) => Color::Gray,
            (Self::Sixteen, Tone::Faint) => Color::DarkGray,
            (Self::HighContrast, Tone::Good) => Color::LightGreen,
            (Self::HighContrast, Tone::Busy) => Color::LightCyan,
            (Self::HighContrast, Tone::Warning) => Color::LightYellow,
            (Self::HighContrast, Tone::Bad) => Color::LightRed,
            (Self::Sixteen, Tone::Good) => Color::Green,
            (Self::Sixteen, Tone::Busy) => Color::Cyan,
            (Self::Sixteen, Tone::Warning) => Color::Yellow,
            (Self::Sixteen, Tone::Bad) => Color::Red,
        };
        let style = base.fg(colour);
        match (self, tone) {
            (Self::HighContrast | Self::ColourBlind, Tone::Bad) => style.add_modifier(Modifier::BOLD),
            _ => style,
        }
    }

    /// Returns how a part of the screen looks.
    pub fn part(self, part: Part) -> Style {
        let base = self.base();
        match part {
            Part::Header | Part::Title => base.add_modifier(Modifier::BOLD),
            Part::TabOn => base.add_modifier(Modifier::REVERSED | Modifier::BOLD),
            Part::Border => self.tone(Tone::Faint),
            Part::TabOff | Part::Heading => self.tone(Tone::Faint).add_modifier(Modifier::BOLD),
            Part::BorderOn | Part::Bar => self.tone(Tone::Busy),
            Part::Selected => match self {
                Self::Dark | Self::ColourBlind => base.bg(Color::Indexed(238)).add_modifier(Modifier::BOLD),
                Self::Light => base.bg(Color::Indexed(253)).add_modifier(Modifier::BOLD),
                _ => base.add_modifier(Modifier::REVERSED),
            },
            Part::Match => match self {
                Self::None => base.add_modifier(Modifier::UNDERLINED | Modifier::BOLD),
                Self::Light => base.fg(Color::Black).bg(Color::Indexed(222)),
                Self::Dark | Self::ColourBlind => base.fg(Color::Black).bg(Color::Indexed(179)),
                _ => base.fg(Color::Black).bg(Color::Yellow),
            },
            Part::Mainnet => match self {
                Self::None => base.add_modifier(Modifier::REVERSED | Modifier::BOLD),
                _ => base.fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD),
            },
            Part::Key => match self {
                Self::None => base.add_modifier(Modifier::BOLD),
                _ => self.tone(Tone::Busy).add_modifier(Modifier::BOLD),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_colours_that_it_does_not_have() {
        let depth = |pairs: &'static [(&str, &str)]| {
            Depth::of(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| *value))
        };
        assert_eq!(depth(&[("TERM", "xterm-256color")]), Depth::Many);
        assert_eq!(
            depth(&[("TERM", "screen"), ("COLORTERM", "truecolor")]),
            Depth::Many
        );
        assert_eq!(depth(&[("TERM", "screen")]), Depth::Sixteen);
        assert_eq!(depth(&[]), Depth::Sixteen);
        assert_eq!(depth(&[("TERM", "dumb")]), Depth::None);
        assert_eq!(
            depth(&[("TERM", "xterm-256color"), ("NO_COLOR", "1")]),
            Depth::None
        );
        assert_eq!(Theme::Dark.within(Depth::Sixteen), Theme::Sixteen);
        assert_eq!(Theme::HighContrast.within(Depth::Sixteen), Theme::HighContrast);
        assert_eq!(Theme::Light.within(Depth::None), Theme::None);
    }

    #[test]
    fn every_theme_has_a_word_and_a_key_goes_through_all() {
        let mut theme = Theme::Dark;
        for _ in Theme::ALL {
            assert_eq!(Theme::find(theme.word()), Some(theme));
            theme = theme.next();
        }
        assert_eq!(theme, Theme::Dark);
        assert_eq!(Theme::find("pink"), None);
    }

    #[test]
    fn without_colours_there_is_none_and_with_sixteen_no_other() {
        let tones = [
            Tone::Plain,
            Tone::Faint,
            Tone::Good,
            Tone::Busy,
            Tone::Warning,
            Tone::Bad,
        ];
        for tone in tones {
            let style = Theme::None.tone(tone);
            assert_eq!((style.fg, style.bg), (None, None));
            let style = Theme::Sixteen.tone(tone);
            assert!(!matches!(style.fg, Some(Color::Indexed(_) | Color::Rgb(..))));
        }
    }
}
