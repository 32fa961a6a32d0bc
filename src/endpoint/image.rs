//! Images in a prompt: which are passed on, and the most tokens that one can be billed as.
//!
//! An image is never fetched or decoded. One that comes inline is billed by its width and height, which its headers say;
//! of one by URL only the model is known, so it counts as the largest that the model's rules allow. The bytes of a `data:`
//! URL are no text and cost nothing by themselves.

use super::data_url::{self, Problem};
use super::field_error::{Checked, FieldError};
use super::image_size::{self, Size};

/// The longest `https:` URL.
const URL_BYTES_MAX: usize = 8192;

/// A rule of a provider's for what an image costs (OpenAI, *Images and vision*, "Calculating costs"). Where its words
/// leave a choice, the dearest reading.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Scaled to fit 2048 × 2048, then its shortest side to 768 (a small one is taken to grow, too); each tile of
    /// 512 × 512 costs, on top of a base that is all that `detail: "low"` costs.
    Tiles { base: u64, tile: u64 },
    /// Patches of 32 × 32 pixels, scaled down to at most so many; each costs so many hundredths of a token. `low` is taken
    /// to change nothing.
    Patches { most: u64, hundredths: u64 },
    /// So many, whatever its size.
    Flat(u64),
}

/// The rules of one model, or of those whose names go on from its name with a `-`. The dearest counts.
struct Family {
    name: &'static str,
    rules: &'static [Rule],
}

const TILES: Rule = Rule::Tiles {
    base: 85,
    tile: 170,
};
const MINI: Rule = Rule::Patches {
    most: 1_536,
    hundredths: 162,
};
const NANO: Rule = Rule::Patches {
    most: 1_536,
    hundredths: 246,
};
/// Both kinds of rules have been published or measured for these.
const TILES_OR_PATCHES: &[Rule] = &[
    TILES,
    Rule::Patches {
        most: 1_536,
        hundredths: 100,
    },
];
/// The small models of later generations, with the largest multiplier and budget of patches of any.
const LATER_SMALL: &[Rule] = &[
    Rule::Patches {
        most: 2_500,
        hundredths: 246,
    },
    LATER,
];
/// Later models: up to 10,000 patches (detail `original`, which they may choose by themselves) at 1.2 tokens.
const LATER: Rule = Rule::Patches {
    most: 10_000,
    hundredths: 120,
};
/// The 16,384 patches of common open models.
const OTHER: Rule = Rule::Flat(16_384);

/// The first that fits.
const FAMILIES: [Family; 17] = [
    Family {
        name: "gpt-4o-mini",
        rules: &[Rule::Tiles {
            base: 2_833,
            tile: 5_667,
        }],
    },
    Family {
        name: "gpt-4o",
        rules: &[TILES],
    },
    Family {
        name: "chatgpt-4o",
        rules: &[TILES],
    },
    Family {
        name: "gpt-4-turbo",
        rules: &[TILES],
    },
    Family {
        name: "gpt-4.5",
        rules: &[TILES],
    },
    Family {
        name: "gpt-4.1-mini",
        rules: &[MINI],
    },
    Family {
        name: "gpt-4.1-nano",
        rules: &[NANO],
    },
    Family {
        name: "gpt-4.1",
        rules: TILES_OR_PATCHES,
    },
    Family {
        name: "o1",
        rules: &[TILES],
    },
    Family {
        name: "o3",
        rules: &[TILES],
    },
    Family {
        name: "o4-mini",
        rules: &[Rule::Patches {
            most: 1_536,
            hundredths: 172,
        }],
    },
    Family {
        name: "gpt-5-mini",
        rules: &[MINI],
    },
    Family {
        name: "gpt-5-nano",
        rules: &[NANO],
    },
    Family {
        name: "gpt-5.1-mini",
        rules: LATER_SMALL,
    },
    Family {
        name: "gpt-5.1-codex-mini",
        rules: LATER_SMALL,
    },
    Family {
        name: "gpt-5.1",
        rules: TILES_OR_PATCHES,
    },
    Family {
        name: "gpt-5",
        rules: TILES_OR_PATCHES,
    },
];

/// The most tokens that the image of a URL can be billed as by a model. `openai`: the model is one of OpenAI's, of whatever
/// name.
pub(crate) fn tokens_max((model, openai): (&str, bool), url: &str, detail: Option<&str>) -> u64 {
    let size = data_url::encoded(url).and_then(image_size::size);
    let low = detail == Some("low");
    rules(model, openai)
        .iter()
        .map(|rule| rule.tokens(size, low))
        .max()
        .unwrap_or(u64::MAX)
}

fn rules(model: &str, openai: bool) -> &'static [Rule] {
    let name = model.strip_prefix("openai/").unwrap_or(model);
    let of = |family: &&Family| {
        name.strip_prefix(family.name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let later = || {
        let small = name.contains("-mini") || name.contains("-nano");
        if small { LATER_SMALL } else { &[LATER] }
    };
    let openai = openai || name.starts_with("gpt-") || model.len() > name.len();
    FAMILIES.iter().find(of).map_or_else(
        || if openai { later() } else { &[OTHER] },
        |family| family.rules,
    )
}

impl Rule {
    /// Of an image of this size; without one, of the largest.
    fn tokens(self, size: Option<Size>, low: bool) -> u64 {
        match self {
            Self::Tiles { base, .. } if low => base,
            Self::Tiles { base, tile } => {
                base.saturating_add(size.map_or(8, tiles).saturating_mul(tile))
            }
            Self::Patches { most, hundredths } => {
                let patches = size.map_or(most, |size| patches(size).min(most));
                patches.saturating_mul(hundredths).div_ceil(100)
            }
            Self::Flat(tokens) => tokens,
        }
    }
}

/// Tiles of 512 pixels. The shortest side is 768, the longest at most 2048: from 2 × 2 to 4 × 2; an image that is longer in
/// proportion has its longest side at 2048.
fn tiles((width, height): Size) -> u64 {
    let (short, long) = (width.min(height), width.max(height));
    let scaled = long.saturating_mul(768).div_ceil(short.max(1));
    if scaled <= 2048 {
        scaled.div_ceil(512).saturating_mul(2)
    } else {
        8
    }
}

fn patches((width, height): Size) -> u64 {
    width.div_ceil(32).saturating_mul(height.div_ceil(32))
}

/// The words that say how closely an image is looked at.
pub(crate) fn check_detail(detail: Option<&str>) -> Checked {
    match detail {
        None | Some("auto" | "low" | "high") => Ok(()),
        Some("original") => Err(FieldError::unsupported(
            "detail",
            "cannot be `original`: use `high`",
        )),
        Some(_) => Err(FieldError::invalid(
            "detail",
            "must be `auto`, `low` or `high`",
        )),
    }
}

/// An image that may be passed on: a PNG, JPEG, WebP or GIF inline, which is written in one form, or a public `https:` URL.
/// The fault is about the member `name`.
pub(crate) fn check_url(url: &mut String, name: &str) -> Checked {
    if data_url::strip_scheme(url).is_none() {
        let what = "must be a data: URL of an image in base64, or the https: URL of a public host";
        return if is_public_https(url) {
            Ok(())
        } else {
            Err(FieldError::invalid(name, what))
        };
    }
    if let Some(canonical) = data_url::canonical(url).map_err(|problem| fault(problem, name))? {
        *url = canonical;
    }
    match image_size::size(data_url::encoded(url).unwrap_or_default()) {
        Some(_) => Ok(()),
        None => Err(FieldError::invalid(
            name,
            "must be a PNG, JPEG, WebP or GIF: its width and height cannot be read",
        )),
    }
}

fn fault(problem: Problem, name: &str) -> FieldError {
    let what = match problem {
        Problem::Kind => "must start with data:image/png;base64, (or jpeg, webp, gif)",
        Problem::Base64 => "must be valid base64 after the comma",
    };
    FieldError::invalid(name, what)
}

/// An `https:` URL without credentials, whose host is a name with a dot: whoever fetches it, it is not to be led to an
/// address in its own network by a mere number or a local name.
pub(super) fn is_public_https(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    let host = authority.host().trim_end_matches('.');
    let top = host.rsplit_once('.').map_or("", |(_, top)| top);
    let named =
        top.starts_with(|first: char| first.is_ascii_alphabetic()) && !host.contains(['[', ':']);
    let local = ["local", "localhost", "internal", "lan", "home", "arpa"]
        .contains(&top.to_ascii_lowercase().as_str());
    url.len() <= URL_BYTES_MAX && named && !local && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    /// The header of a PNG of this size, inline.
    fn png(width: u32, height: u32) -> String {
        let header = [
            &b"\x89PNG\r\n\x1a\n\0\0\0\x0DIHDR"[..],
            &width.to_be_bytes(),
            &height.to_be_bytes(),
        ]
        .concat();
        format!("data:image/png;base64,{}", STANDARD.encode(header))
    }

    #[test]
    fn images_inline_and_on_public_hosts_are_passed_on() {
        for url in [&png(1, 1), "https://example.com/a.png?b=c%20d"] {
            assert!(check_url(&mut url.to_owned(), "url").is_ok(), "{url}");
        }
        let mut loose = png(20, 30)
            .replace("image/png", "image/PNG")
            .replace("AAAA", "AA\nAA");
        assert!(check_url(&mut loose, "url").is_ok());
        assert_eq!(loose, png(20, 30), "it is sent in one form");
    }

    #[test]
    fn other_urls_are_refused() {
        let data = [
            "data:image/svg+xml;base64,AAAA",
            "data:text/html;base64,AAAA",
            "data:image/png,AAAA",
        ];
        let base64 = [
            "",
            "A",
            "AA=A",
            "A===",
            "AAA-",
            "====",
            "AAAA",
            "iVBORw0KGgo=",
        ];
        let base64 = base64.map(|encoded| format!("data:image/png;base64,{encoded}"));
        let schemes = [
            "",
            "http://example.com/a",
            "file:///etc/passwd",
            "//example.com/a",
            "HTTPS//x",
            "gs://a.b/c",
            "s3",
        ];
        let hosts = [
            "https://",
            "https://u:p@example.com/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://localhost/a",
        ];
        let local = [
            "https://0x7f000001/",
            "https://2130706433/",
            "https://127.1/",
            "https://db.internal/",
            "https://a.localhost.",
        ];
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        let all = data
            .into_iter()
            .chain(schemes)
            .chain(hosts)
            .chain(local)
            .map(str::to_owned)
            .chain(base64)
            .chain([long]);
        for url in all {
            assert!(check_url(&mut url.clone(), "url").is_err(), "{url:.60}");
        }
    }

    #[test]
    fn an_image_by_url_costs_the_most_its_model_can_bill() {
        let url = "https://example.com/a";
        let cost = |model, detail| tokens_max((model, false), url, detail);
        assert_eq!(cost("gpt-4o", None), 85 + 8 * 170);
        assert_eq!(cost("gpt-4o", Some("low")), 85);
        assert_eq!(cost("gpt-4o-2024-05-13", None), 1_445);
        assert_eq!(cost("gpt-4o-mini", Some("auto")), 48_169);
        assert_eq!(cost("gpt-4.1", Some("low")), 1_536);
        assert_eq!(cost("gpt-4.1-nano", Some("low")), 3_779);
        assert_eq!(cost("gpt-5.1-chat-latest", None), 1_536);
        assert_eq!(cost("gpt-5.4-mini", None), 12_000);
        assert_eq!(cost("gpt-6-luna", None), 12_000);
        assert_eq!(cost("openai/gpt-4o", None), 1_445);
        assert_eq!(cost("gpt-4omni", None), 12_000);
        assert_eq!(cost("llava", Some("low")), 16_384);
        assert_eq!(tokens_max(("mine", true), url, None), 12_000);
    }

    #[test]
    fn an_inline_image_costs_what_its_size_does() {
        let cost = |model, (width, height), detail| {
            tokens_max((model, false), &png(width, height), detail)
        };
        // The provider's own examples.
        assert_eq!(cost("gpt-4o", (1024, 1024), None), 765);
        assert_eq!(cost("gpt-4o", (2048, 4096), Some("high")), 1_105);
        assert_eq!(cost("gpt-4o", (4096, 8192), Some("low")), 85);
        assert_eq!(cost("gpt-4.1-mini", (1024, 1024), None), 1_659);
        // A phone's photo, either way up; the same with the rules of all families.
        for size in [(4032, 3024), (3024, 4032)] {
            assert_eq!(cost("gpt-6-luna", size, None), 12_000);
            assert_eq!(cost("gpt-4o", size, None), 85 + 4 * 170);
            assert_eq!(cost("gpt-4o-mini", size, None), 2_833 + 4 * 5_667);
            assert_eq!(cost("gpt-5-nano", size, None), 3_779);
            assert_eq!(cost("llava", size, None), 16_384);
        }
        assert_eq!(cost("gpt-6-luna", (33, 32), Some("low")), 3);
        assert_eq!(cost("gpt-5.4-mini", (64, 64), None), 10);
        assert_eq!(cost("gpt-4o", (1, 1), None), 765);
        for long in [(1, 100_000), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            assert!(cost("gpt-4o", long, None) >= 765 && cost("gpt-6-luna", long, None) >= 3_750);
        }
    }
}
