//! Every byte that left the process, searched for every secret, as it is and in the forms that something may give it.
//!
//! A secret has at most one place where it belongs: the operator's key in `Authorization` to the upstream (`x-api-key` to Anthropic), the service
//! key in the headers of the project's REST calls, a prompt in the body that goes to the upstream. Anywhere else it is
//! found.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::caller::Answer;
use super::oracle::Evidence;
use super::wire::Request;
use super::zoo;

/// What kind of secret it is, by which it is known where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    OperatorKey,
    JwtSecret,
    ServiceKey,
    AdminToken,
    Password,
    Prompt,
    UserToken,
}

/// A secret of a test.
#[derive(Clone, Debug)]
pub(crate) struct Canary {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) secret: String,
}

impl Canary {
    pub(crate) fn new(kind: Kind, name: impl Into<String>, secret: &str) -> Self {
        Self {
            kind,
            name: name.into(),
            secret: secret.to_owned(),
        }
    }

    /// The secret, and what becomes of it in the encodings that are about: what to search for.
    pub(crate) fn forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let bytes = self.secret.as_bytes();
        let mut forms = vec![("as it is", bytes.to_vec())];
        if self.kind == Kind::UserToken {
            // There may be hundreds, and each is base64 already. Its last part is as good as the whole.
            forms.extend(
                self.secret
                    .rsplit_once('.')
                    .map(|(_, last)| ("its signature", last.as_bytes().to_vec())),
            );
            return forms;
        }
        let each =
            |write: fn(u8) -> String| bytes.iter().map(|byte| write(*byte)).collect::<String>();
        let mut add = |form: &'static str, text: String| forms.push((form, text.into_bytes()));
        add("in hex", each(|byte| format!("{byte:02x}")));
        add("in HEX", each(|byte| format!("{byte:02X}")));
        add(
            "with every byte as %XX",
            each(|byte| format!("%{byte:02X}")),
        );
        add(
            "with every byte as %xx",
            each(|byte| format!("%{byte:02x}")),
        );
        add("with what is reserved as %XX", each(percent_encoded));
        add(
            "in JSON",
            serde_json::to_string(&self.secret)
                .unwrap()
                .trim_matches('"')
                .to_owned(),
        );
        add(
            "in JSON with every letter as \\u",
            each(|byte| format!("\\u{byte:04x}")),
        );
        add(
            "as Debug writes it",
            format!("{:?}", self.secret).trim_matches('"').to_owned(),
        );
        // In base64 of something longer it stands in one of three ways, by where it begins.
        for skipped in 0..3.min(bytes.len()) {
            let whole = &bytes[skipped..skipped + (bytes.len() - skipped) / 3 * 3];
            add("in base64", STANDARD_NO_PAD.encode(whole));
            add("in base64url", URL_SAFE_NO_PAD.encode(whole));
        }
        forms.sort_by(|one, other| one.1.cmp(&other.1));
        forms.dedup_by(|one, other| one.1 == other.1);
        forms
    }
}

/// As RFC 3986 §2.3 wants it.
fn percent_encoded(byte: u8) -> String {
    let is_bare = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if is_bare {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// Bytes that left the process: where to, and the one kind of secret that belongs there.
struct Left<'a> {
    place: String,
    bytes: Cow<'a, [u8]>,
    belongs: Option<Kind>,
}

/// Each secret that is where it does not belong.
pub(crate) fn no_secret_got_out(evidence: &Evidence) -> Vec<String> {
    let left = everything(evidence);
    let mut found = Vec::new();
    for canary in &evidence.canaries {
        for (form, bytes) in canary.forms() {
            let finder = memchr::memmem::Finder::new(&bytes);
            let places = left.iter().filter(|left| left.belongs != Some(canary.kind));
            let places = places.filter(|left| finder.find(&left.bytes).is_some());
            found.extend(places.map(|left| format!("{} is {} ({form})", canary.name, left.place)));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn everything(evidence: &Evidence) -> Vec<Left<'_>> {
    let mut all = vec![Left {
        place: "in the output".to_owned(),
        bytes: evidence.output.as_bytes().into(),
        belongs: None,
    }];
    for (name, bytes) in &evidence.files {
        all.push(Left {
            place: format!("in the file {name}"),
            bytes: bytes.into(),
            belongs: None,
        });
    }
    for answer in evidence.heard.iter().chain(&evidence.operators) {
        all.push(of_answer(answer));
    }
    for served in &evidence.served {
        let key_header = if zoo::claude::is_asked(&served.seen) {
            "x-api-key"
        } else {
            "authorization"
        };
        let belongs = |part: Part<'_>| match part {
            Part::Header(name) if name.eq_ignore_ascii_case(key_header) => Some(Kind::OperatorKey),
            Part::Body => Some(Kind::Prompt),
            _ => None,
        };
        all.extend(of_request(
            &served.seen.request,
            "sent to the upstream",
            belongs,
        ));
    }
    for request in &evidence.project {
        let is_rest = request.target.starts_with("/rest/v1/");
        let belongs = |part: Part<'_>| match part {
            Part::Header(name)
                if is_rest && ["apikey", "authorization"].contains(&&*name.to_lowercase()) =>
            {
                Some(Kind::ServiceKey)
            }
            _ => None,
        };
        all.extend(of_request(request, "sent to the project", belongs));
    }
    for request in &evidence.collected {
        all.extend(of_request(request, "sent to the collector", |_| None));
    }
    all
}

/// All of it at once: there are many, and nothing secret belongs anywhere in them.
fn of_answer(answer: &Answer) -> Left<'_> {
    let mut bytes: Vec<u8> = answer
        .headers
        .iter()
        .flat_map(|(name, value)| [name, ": ", value, "\n"].concat().into_bytes())
        .collect();
    bytes.extend(&answer.body);
    Left {
        place: format!("in an answer to {}", answer.what),
        bytes: bytes.into(),
        belongs: None,
    }
}

/// A part of a request, of which each is allowed something else.
#[derive(Clone, Copy)]
enum Part<'a> {
    Target,
    Header(&'a str),
    Body,
}

fn of_request<'a>(
    request: &'a Request,
    place: &str,
    belongs: impl Fn(Part<'_>) -> Option<Kind>,
) -> impl Iterator<Item = Left<'a>> {
    let place = format!("{place} in {} {}", request.method, request.target);
    let headers = request
        .headers
        .iter()
        .map(|(name, value)| (Part::Header(name), value.as_bytes()));
    let parts = headers.chain([
        (Part::Target, request.target.as_bytes()),
        (Part::Body, request.body.as_slice()),
    ]);
    parts.map(move |(part, bytes)| Left {
        place: place.clone(),
        bytes: bytes.into(),
        belongs: belongs(part),
    })
}
