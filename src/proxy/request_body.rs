//! A request's body as it arrives: bounded in bytes, in time, and in what it takes of the server while it comes.
//!
//! A short one is taken as it comes. A longer one is copied piece by piece into one buffer, and takes its bytes of the
//! budget (`Place::make_room`) before it does: a caller who sends it in pieces of one byte costs no more than any other.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use crate::app::Place;
use crate::app::place::SMALL_BODY_BYTES_MAX;
use crate::config::Server;
use crate::endpoint::{BodyBounds, BodyForm, JSON};
use crate::error::{Code, Refusal};

/// Reads a body to its end, as it is; in a form that the endpoint does not take, nothing is read at all.
pub(super) async fn read(
    forms: &[BodyForm],
    (headers, body): (&HeaderMap, Body),
    server: &Server,
    place: &mut Place,
) -> Result<Bytes, Refusal> {
    let bounds = BodyBounds {
        body_bytes_max: server.body_bytes_max,
        file_bytes_max: server.file_bytes_max,
    };
    let bytes_max = (form(headers, forms)?.bytes_max)(&bounds);
    let now = Instant::now();
    let deadline = now.checked_add(server.body_timeout).unwrap_or(now);
    let announced = body
        .size_hint()
        .exact()
        .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    match announced {
        Some(bytes) if bytes > bytes_max => Err(too_large(bytes_max)),
        Some(bytes) if bytes <= SMALL_BODY_BYTES_MAX => {
            let reading = Limited::new(body, bytes_max).collect();
            let read = timeout_at(deadline, reading).await.map_err(|_| slow())?;
            read.map(http_body_util::Collected::to_bytes)
                .map_err(|_| broken())
        }
        _ => read_long(body, announced, bytes_max, (place, deadline)).await,
    }
}

async fn read_long(
    mut body: Body,
    announced: Option<usize>,
    bytes_max: usize,
    (place, mut deadline): (&mut Place, Instant),
) -> Result<Bytes, Refusal> {
    let most = announced.unwrap_or(bytes_max);
    let mut read = Vec::with_capacity(announced.unwrap_or(0));
    while let Some(frame) = timeout_at(deadline, body.frame())
        .await
        .map_err(|_| slow())?
    {
        let Ok(piece) = frame.map_err(|_| broken())?.into_data() else {
            continue;
        };
        let bytes = read.len().saturating_add(piece.len());
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        if !place.has_room(bytes) {
            let begun = Instant::now();
            place.make_room(bytes, most).await?;
            // It is not the caller who was slow.
            deadline = deadline.checked_add(begun.elapsed()).unwrap_or(deadline);
        }
        read.extend_from_slice(&piece);
    }
    place.body_is(read.len());
    Ok(Bytes::from(read))
}

fn slow() -> Refusal {
    Refusal::new(Code::InvalidRequest, "The body took too long to arrive.")
}

fn broken() -> Refusal {
    Refusal::new(Code::InvalidRequest, "The body did not arrive whole.")
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(
        Code::BodyTooLarge,
        format!("The body is larger than {bytes_max} bytes."),
    )
}

/// JSON or no Content-Type is taken; anything else, and any Content-Encoding, is not.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    form(headers, &[JSON]).map(drop)
}

/// The form of a body, of those that are taken. Any Content-Encoding is refused.
fn form<'a>(headers: &HeaderMap, forms: &'a [BodyForm]) -> Result<&'a BodyForm, Refusal> {
    let refuse = |message: String| Refusal::new(Code::UnsupportedMediaType, message);
    if headers.contains_key(header::CONTENT_ENCODING) {
        let message = "Send the body as it is, without Content-Encoding.";
        return Err(refuse(message.to_owned()));
    }
    let found = match headers.get(header::CONTENT_TYPE) {
        None => forms.first(),
        Some(kind) => {
            let kind = kind.to_str().unwrap_or_default();
            let essence = kind.split(';').next().unwrap_or_default().trim();
            forms
                .iter()
                .find(|form| essence.eq_ignore_ascii_case(form.media_type))
        }
    };
    found.ok_or_else(|| {
        let taken: Vec<_> = forms.iter().map(|form| form.media_type).collect();
        refuse(format!(
            "Send a body with Content-Type: {}.",
            taken.join(" or ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const FORMS: [BodyForm; 2] = [
        JSON,
        BodyForm {
            media_type: "multipart/form-data",
            bytes_max: |_| 7,
        },
    ];

    fn taken(content_type: Option<&'static str>, forms: &[BodyForm]) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            let value = HeaderValue::from_static(content_type);
            headers.insert(header::CONTENT_TYPE, value);
        }
        let form = form(&headers, forms);
        form.map(|form| form.media_type.to_owned())
            .map_err(|refusal| refusal.message)
    }

    #[test]
    fn a_body_has_one_of_the_forms_that_its_endpoint_takes() {
        let [json, multipart] = FORMS;
        let (json, multipart) = (json.media_type.to_owned(), multipart.media_type.to_owned());
        for (content_type, form) in [
            (None, &json),
            (Some("application/json"), &json),
            (Some("Application/JSON; charset=utf-8"), &json),
            (Some("multipart/form-data; boundary=x"), &multipart),
        ] {
            assert_eq!(taken(content_type, &FORMS).as_ref(), Ok(form));
        }
        let refusal = "Send a body with Content-Type: application/json or multipart/form-data.";
        for content_type in ["text/plain", "", "multipart/form-dat", "application/json5"] {
            assert_eq!(taken(Some(content_type), &FORMS), Err(refusal.to_owned()));
        }
        let only_json = taken(Some("multipart/form-data; boundary=x"), &[JSON]);
        let refusal = "Send a body with Content-Type: application/json.";
        assert_eq!(only_json, Err(refusal.to_owned()));
    }
}
