//! Tables for people: aligned columns, cut to the terminal's width, with a bold head where the terminal can show it.

use std::io::IsTerminal;

use crate::config::Sources;
use crate::observe::visible::visible;

/// What stdout can show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// How wide the terminal is; none where stdout is no terminal, which takes every line whole.
    pub(super) width: Option<usize>,
    /// How many lines it shows.
    pub(super) height: Option<usize>,
    /// Whether it may be coloured.
    pub(super) colour: bool,
}

impl Look {
    /// Of this process's stdout.
    pub(super) fn of(sources: &Sources) -> Self {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Self::default();
        }
        let says = |name: &str| sources.env.get(name).map(String::as_str);
        let colour = says("NO_COLOR").is_none_or(str::is_empty) && says("TERM") != Some("dumb");
        let size = rustix::termios::tcgetwinsize(&out).ok();
        // A terminal that does not know its size is taken for the oldest.
        let or = |cells: Option<u16>, usual: usize| {
            Some(
                cells
                    .map(usize::from)
                    .filter(|cells| *cells > 0)
                    .unwrap_or(usual),
            )
        };
        Self {
            width: or(size.map(|size| size.ws_col), 80),
            height: or(size.map(|size| size.ws_row), 24),
            colour,
        }
    }

    /// Whether stdout is a terminal.
    pub(super) const fn is_terminal(self) -> bool {
        self.width.is_some()
    }

    /// As a heading.
    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// As something that wants to be looked at.
    pub(super) fn alert(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        let text = visible(text);
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.into_owned()
        }
    }
}

/// Rows of cells under a head. Columns whose head begins with `>` are numbers, and end together.
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) const fn new(heads: Vec<&'static str>) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        // A cell may be a name that somebody else chose.
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| visible(&cell).into_owned())
                .collect(),
        );
    }

    /// All lines.
    pub(super) fn text(&self, look: Look) -> String {
        let heads: Vec<String> = self
            .heads
            .iter()
            .map(|head| head.trim_start_matches('>').to_owned())
            .collect();
        let width = |place: usize| {
            let cells = self
                .rows
                .iter()
                .chain([&heads])
                .filter_map(|row| row.get(place));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..heads.len()).map(width).collect();
        self.shrink(&mut widths, look.width);
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).zip(&self.heads);
            let cells = cells.map(|((cell, width), head)| {
                let cell = cut(cell, *width);
                if head.starts_with('>') {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut text = format!("{}\n", look.bold(&line(&heads)));
        for row in &self.rows {
            text.extend([line(row).as_str(), "\n"]);
        }
        text
    }

    /// Takes from the widest columns of words until the line fits.
    fn shrink(&self, widths: &mut [usize], room: Option<usize>) {
        let Some(room) = room else { return };
        let gaps = widths.len().saturating_sub(1).saturating_mul(2);
        while widths
            .iter()
            .fold(gaps, |sum, width| sum.saturating_add(*width))
            > room
        {
            let words = widths
                .iter_mut()
                .zip(&self.heads)
                .filter(|(_, head)| !head.starts_with('>'));
            let Some((widest, _)) = words
                .max_by_key(|(width, _)| **width)
                .filter(|(width, _)| **width > 8)
            else {
                return;
            };
            *widest = widest.saturating_sub(1);
        }
    }
}

/// The text, cut to this many characters. The last one marks the cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec!["user", ">cost"]);
        table.row(vec![
            "7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11".to_owned(),
            "$1.50".to_owned(),
        ]);
        table.row(vec!["7".to_owned(), "$11.50".to_owned()]);
        table
    }

    #[test]
    fn columns_line_up_and_nothing_is_cut_where_there_is_no_terminal() {
        let text = table().text(Look::default());
        assert_eq!(
            text,
            "user                                    cost\n\
             7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11   $1.50\n\
             7                                     $11.50\n"
        );
    }

    #[test]
    fn a_terminal_gets_no_line_that_is_too_long_and_numbers_stay_whole() {
        let text = table().text(Look {
            width: Some(24),
            ..Look::default()
        });
        assert!(
            text.lines().all(|line| line.chars().count() <= 24),
            "{text}"
        );
        assert!(text.contains("7c0e8f52-5d0e-4…   $1.50"), "{text}");
        let coloured = table().text(Look {
            colour: true,
            ..Look::default()
        });
        assert!(coloured.starts_with("\u{1b}[1muser"), "{coloured}");
    }
}
