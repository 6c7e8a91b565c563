//! Whether what is printed has colours: the flag, then the environment, then what the stream is.

use clap::ValueEnum;

/// `--color`, as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// As the environment says; else where a terminal is
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Decides, by a function that looks up a variable that is set and not empty.
///
/// `--color` beats the environment; `NO_COLOR` beats `CLICOLOR_FORCE` and `FORCE_COLOR`, which beat `TERM=dumb` and
/// what the stream is.
pub fn wanted<'a>(
    choice: ColorChoice,
    variable: impl Fn(&str) -> Option<&'a str>,
    is_terminal: bool,
) -> bool {
    let is_on = |name| variable(name).is_some_and(|value| value != "0");
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if variable("NO_COLOR").is_some() => false,
        ColorChoice::Auto if is_on("CLICOLOR_FORCE") || is_on("FORCE_COLOR") => true,
        ColorChoice::Auto => {
            is_terminal && variable("TERM") != Some("dumb") && variable("CLICOLOR") != Some("0")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_beats_the_environment_and_no_color_beats_force_color() {
        let decide = |choice, set: &'static [(&str, &str)], is_terminal| {
            let variable = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| *value);
            wanted(choice, variable, is_terminal)
        };
        let auto = ColorChoice::Auto;
        assert!(decide(auto, &[], true));
        assert!(!decide(auto, &[], false));
        assert!(!decide(auto, &[("NO_COLOR", "1")], true));
        assert!(!decide(auto, &[("NO_COLOR", "1"), ("FORCE_COLOR", "1")], true));
        assert!(decide(auto, &[("FORCE_COLOR", "1")], false));
        assert!(decide(auto, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], false));
        assert!(!decide(auto, &[("CLICOLOR_FORCE", "0")], false));
        assert!(!decide(auto, &[("TERM", "dumb")], true));
        assert!(!decide(auto, &[("CLICOLOR", "0")], true));
        assert!(decide(ColorChoice::Always, &[("NO_COLOR", "1")], false));
        assert!(!decide(ColorChoice::Never, &[("FORCE_COLOR", "1")], true));
    }
}
