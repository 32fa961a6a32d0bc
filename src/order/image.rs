//! Images in a prompt: which are passed on, and the most tokens that one can be billed as.
//!
//! An image is never fetched or decoded here, so its size is not known: the bound is the largest that the provider's own
//! rules allow for a model. The bytes of a data URL are no text and cost nothing by themselves.

use super::fault::{Checked, Fault};
use super::wire::ImageUrl;

/// The longest `https:` URL.
const URL_BYTES_MAX: usize = 8192;

/// The most tokens of one image, and of one with `detail: "low"`, by family of models.
struct Family {
    /// A model's name, or what stands before its first further `-`.
    name: &'static str,
    any: u64,
    low: u64,
}

/// Sixteen thousand tokens, for models whose rules are not known here. The largest of those that are published: 10,000
/// patches at 1.2 tokens (detail `original`, which newer models may choose by themselves), and the 16,384 patches of
/// common open models.
const UNKNOWN: u64 = 16_384;

/// The first that fits. Rules (OpenAI, *Images and vision*, "Calculating costs"):
///
/// - Tiles: scaled to fit 2048 × 2048, then its shortest side to 768; each 512 × 512 tile costs, on top of a base that is
///   all that `low` costs. So at most 4 × 2 tiles: 85 + 8 × 170 = 1,445 for gpt-4o (least tile models: 70 + 8 × 140),
///   rounded up to 1,536; for gpt-4o-mini 2,833 + 8 × 5,667 = 48,169.
/// - Patches of 32 × 32, at most 1,536 or 2,500 of them, times at most 2.46: 6,150. `low` changes nothing.
const FAMILIES: [Family; 14] = [
    Family { name: "gpt-4o-mini", any: 48_169, low: 2_833 },
    Family { name: "gpt-4o", any: 1_536, low: 85 },
    Family { name: "gpt-4-turbo", any: 1_536, low: 85 },
    Family { name: "gpt-4.1-mini", any: 6_150, low: 6_150 },
    Family { name: "gpt-4.1-nano", any: 6_150, low: 6_150 },
    Family { name: "gpt-4.1", any: 1_536, low: 1_536 },
    Family { name: "o1", any: 1_536, low: 85 },
    Family { name: "o3", any: 1_536, low: 85 },
    Family { name: "o4-mini", any: 6_150, low: 6_150 },
    Family { name: "gpt-5-mini", any: 6_150, low: 6_150 },
    Family { name: "gpt-5-nano", any: 6_150, low: 6_150 },
    Family { name: "gpt-5.1-mini", any: 6_150, low: 6_150 },
    Family { name: "gpt-5.1", any: 1_536, low: 1_536 },
    Family { name: "gpt-5", any: 1_536, low: 1_536 },
];

/// The most tokens that an image can be billed as by a model.
pub(super) fn tokens_max(model: &str, image: &ImageUrl) -> u64 {
    let of =
        |family: &&Family| model.strip_prefix(family.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let low = image.detail.as_deref() == Some("low");
    FAMILIES.iter().find(of).map_or(UNKNOWN, |family| if low { family.low } else { family.any })
}

/// An image that may be passed on: a PNG, JPEG, WebP or GIF inline, or a public `https:` URL.
pub(super) fn check(image: &ImageUrl) -> Checked {
    if let Some(name) = &image.unknown {
        return Err(Fault::unsupported(&name.name, "is not supported: remove it"));
    }
    match image.detail.as_deref() {
        None | Some("auto" | "low" | "high") => {}
        Some("original") => return Err(Fault::unsupported("detail", "cannot be `original`: use `high`")),
        Some(_) => return Err(Fault::invalid("detail", "must be `auto`, `low` or `high`")),
    }
    let url = image.url.as_deref().ok_or_else(|| Fault::missing("url"))?;
    if let Some(data) = url.strip_prefix("data:") {
        return check_data(data);
    }
    if is_public_https(url) {
        return Ok(());
    }
    Err(Fault::invalid("url", "must be a data: URL of an image in base64, or the https: URL of a public host"))
}

fn check_data(data: &str) -> Checked {
    let kinds = ["image/png;base64,", "image/jpeg;base64,", "image/webp;base64,", "image/gif;base64,"];
    let Some(encoded) = kinds.iter().find_map(|kind| data.strip_prefix(kind)) else {
        return Err(Fault::invalid("url", "must start with data:image/png;base64, (or jpeg, webp, gif)"));
    };
    if is_base64(encoded) { Ok(()) } else { Err(Fault::invalid("url", "must be valid base64 after the comma")) }
}

/// The standard alphabet, padded (RFC 4648 §4), and not empty.
fn is_base64(encoded: &str) -> bool {
    let digits = encoded.trim_end_matches('=');
    let padding = encoded.len().saturating_sub(digits.len());
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    !digits.is_empty() && padding <= 2 && encoded.len().is_multiple_of(4) && digits.bytes().all(alphabet)
}

/// An `https:` URL without credentials, whose host is a name with a dot: whoever fetches it, it is not to be led to an
/// address in its own network by a mere number or a local name.
fn is_public_https(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let host = authority.host().trim_end_matches('.');
    let top = host.rsplit_once('.').map_or("", |(_, top)| top);
    let named = top.starts_with(|first: char| first.is_ascii_alphabetic()) && !host.contains(['[', ':']);
    let local = ["local", "localhost", "internal", "lan", "home", "arpa"].contains(&top.to_ascii_lowercase().as_str());
    url.len() <= URL_BYTES_MAX && named && !local && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(url: &str, detail: Option<&str>) -> ImageUrl {
        ImageUrl { url: Some(url.to_owned()), detail: detail.map(str::to_owned), unknown: None }
    }

    #[test]
    fn images_inline_and_on_public_hosts_are_passed_on() {
        let good =
            ["data:image/png;base64,iVBORw==", "data:image/jpeg;base64,/9j/", "https://example.com/a.png?b=c%20d"];
        for url in good {
            assert!(check(&image(url, Some("high"))).is_ok(), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        let data = ["data:image/svg+xml;base64,AAAA", "data:text/html;base64,AAAA", "data:image/png,AAAA"];
        let base64 = ["", "AAA", "AA=A", "A===", "AAAA AAA", "AAA-", "AA\nA", "===="];
        let base64 = base64.map(|encoded| format!("data:image/png;base64,{encoded}"));
        let schemes =
            ["", "http://example.com/a", "file:///etc/passwd", "//example.com/a", "HTTPS//x", "gs://a.b/c", "s3"];
        let hosts =
            ["https://", "https://u:p@example.com/", "https://127.0.0.1/", "https://[::1]/", "https://localhost/a"];
        let local = [
            "https://0x7f000001/",
            "https://2130706433/",
            "https://127.1/",
            "https://db.internal/",
            "https://a.localhost.",
        ];
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        let all =
            data.into_iter().chain(schemes).chain(hosts).chain(local).map(str::to_owned).chain(base64).chain([long]);
        for url in all {
            assert!(check(&image(&url, None)).is_err(), "{url:.60}");
        }
    }

    #[test]
    fn an_image_costs_the_most_its_model_can_bill() {
        let cost = |model, detail| tokens_max(model, &image("", detail));
        assert_eq!(cost("gpt-4o", None), 1_536);
        assert_eq!(cost("gpt-4o", Some("low")), 85);
        assert_eq!(cost("gpt-4o-2024-05-13", None), 1_536);
        assert_eq!(cost("gpt-4o-mini", Some("auto")), 48_169);
        assert_eq!(cost("gpt-4.1-nano", Some("low")), 6_150);
        assert_eq!(cost("gpt-5.1-chat-latest", None), 1_536);
        assert_eq!(cost("gpt-5.4-mini", None), UNKNOWN);
        assert_eq!(cost("gpt-4omni", None), UNKNOWN);
        assert_eq!(cost("llava", Some("low")), UNKNOWN);
    }
}
