//! Durations and sizes as people write them: `15m`, `8MiB`.

use std::time::Duration;

use super::findings::Problem;

const DURATIONS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
const SIZES: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads `500ms`, `10s`, `15m`, `1h` or `400d`. A number without a unit is refused.
pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    measure(text, &DURATIONS)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            let fix =
                "write a whole number and a unit: \"500ms\", \"10s\", \"15m\", \"1h\" or \"400d\"";
            Problem::new(format!("`{text}` is not a length of time"), fix)
        })
}

/// Reads a length of time, as the command line does.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|what| format!("{}; {}", what.problem, what.fix))
}

/// Reads `512B`, `32KiB`, `8MiB` or `1GiB`. A number without a unit is refused.
pub(super) fn size(text: &str) -> Result<usize, Problem> {
    let bytes = measure(text, &SIZES).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        let fix = "write a whole number and a unit: \"512B\", \"32KiB\" or \"8MiB\"";
        Problem::new(format!("`{text}` is not a size"), fix)
    })
}

fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(split)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a length of time the way [`duration`] reads it, in the largest unit that is exact.
#[must_use]
pub fn show_duration(length: Duration) -> String {
    show(
        u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
        &DURATIONS,
    )
}

/// Writes a size the way it is read, in the largest unit that is exact.
#[must_use]
pub fn show_size(bytes: usize) -> String {
    show(u64::try_from(bytes).unwrap_or(u64::MAX), &SIZES)
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    let exact = units
        .iter()
        .rev()
        .find(|(_, factor)| amount.checked_rem(*factor) == Some(0) && amount > 0);
    let (unit, factor) = exact.or_else(|| units.get(1)).copied().unwrap_or(("", 1));
    format!("{}{unit}", amount.checked_div(factor).unwrap_or(amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_sizes_are_read_with_their_unit_only() {
        let ms = |text| duration(text).map(|length| length.as_millis()).ok();
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("10s"), Some(10_000));
        assert_eq!(ms("15m"), Some(900_000));
        assert_eq!(ms("1h"), Some(3_600_000));
        assert_eq!(ms("400d"), Some(34_560_000_000));
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "1.5h",
            "10 years",
            "99999999999999999999s",
            "18446744073709551615d",
            "1é",
        ] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
        let bytes = |text| size(text).ok();
        assert_eq!(bytes("8MiB"), Some(8 << 20));
        assert_eq!(bytes("32 KiB"), Some(32 << 10));
        assert_eq!(bytes("512B"), Some(512));
        assert_eq!(bytes("8MB"), None);
        assert_eq!(bytes("8"), None);
    }

    #[test]
    fn what_is_shown_is_what_is_read() {
        for text in ["500ms", "10s", "15m", "1h", "400d", "0s"] {
            assert_eq!(show_duration(duration(text).ok().unwrap()), text);
        }
        assert_eq!(show_size(8 << 20), "8MiB");
        assert_eq!(show_size(1500), "1500B");
    }
}
