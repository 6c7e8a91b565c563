//! How tones look: colours of each theme.

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
    /// With the sixteen colours that every terminal has.
    Sixteen,
    /// Without colours.
    None,
}
