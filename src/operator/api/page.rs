//! The dashboard's files, embedded as they are in `dashboard/`. It does not know the ledger: the page calls the API
//! like any other program of the operator.
//!
//! There is no build step and no file from another server: the browser runs what is written here. The page shows text
//! from strangers, so no other script may run, and these scripts set text only, never markup.

use aws_lc_rs::digest;
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A file of the dashboard.
struct DashboardFile {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

const fn file(
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
) -> DashboardFile {
    DashboardFile {
        path,
        content_type,
        content,
    }
}

static FILES: &[DashboardFile] = &[
    file("/", HTML, include_bytes!("../../../dashboard/index.html")),
    file(
        "/assets/style.css",
        STYLE,
        include_bytes!("../../../dashboard/style.css"),
    ),
    file(
        "/assets/icon.svg",
        PICTURE,
        include_bytes!("../../../dashboard/icon.svg"),
    ),
    file(
        "/assets/theme.js",
        SCRIPT,
        include_bytes!("../../../dashboard/theme.js"),
    ),
    file(
        "/assets/app.js",
        SCRIPT,
        include_bytes!("../../../dashboard/app.js"),
    ),
    file(
        "/assets/api.js",
        SCRIPT,
        include_bytes!("../../../dashboard/api.js"),
    ),
    file(
        "/assets/dom.js",
        SCRIPT,
        include_bytes!("../../../dashboard/dom.js"),
    ),
    file(
        "/assets/format.js",
        SCRIPT,
        include_bytes!("../../../dashboard/format.js"),
    ),
    file(
        "/assets/charts.js",
        SCRIPT,
        include_bytes!("../../../dashboard/charts.js"),
    ),
    file(
        "/assets/overview.js",
        SCRIPT,
        include_bytes!("../../../dashboard/overview.js"),
    ),
    file(
        "/assets/users.js",
        SCRIPT,
        include_bytes!("../../../dashboard/users.js"),
    ),
    file(
        "/assets/user.js",
        SCRIPT,
        include_bytes!("../../../dashboard/user.js"),
    ),
    file(
        "/assets/open.js",
        SCRIPT,
        include_bytes!("../../../dashboard/open.js"),
    ),
    file(
        "/assets/models.js",
        SCRIPT,
        include_bytes!("../../../dashboard/models.js"),
    ),
    file(
        "/assets/prompts.js",
        SCRIPT,
        include_bytes!("../../../dashboard/prompts.js"),
    ),
    file(
        "/assets/purchases.js",
        SCRIPT,
        include_bytes!("../../../dashboard/purchases.js"),
    ),
    file(
        "/assets/audit.js",
        SCRIPT,
        include_bytes!("../../../dashboard/audit.js"),
    ),
    file(
        "/assets/uPlot.iife.min.js",
        SCRIPT,
        include_bytes!("../../../dashboard/vendor/uPlot.iife.min.js"),
    ),
    file(
        "/assets/uPlot.min.css",
        STYLE,
        include_bytes!("../../../dashboard/vendor/uPlot.min.css"),
    ),
    file(
        "/assets/uPlot.LICENSE",
        "text/plain; charset=utf-8",
        include_bytes!("../../../dashboard/vendor/uPlot.LICENSE"),
    ),
];

/// The headers of every file. Nothing may be loaded from elsewhere, framed, or run inline.
const GUARDS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    // Asked for again each time, and answered with 304 while it is the same: a new version is never mixed with an old one.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page and its files, for everybody who reaches this listener: there is nothing in them but the program.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = tag_of(file.content);
        router.route(
            file.path,
            get(move |headers: HeaderMap| async move { answer(file, &tag, &headers) }),
        )
    })
}

fn answer(file: &'static DashboardFile, tag: &str, asked: &HeaderMap) -> Response {
    let mut response = if has_it(asked, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, file.content_type)], file.content).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in GUARDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
    response
}

/// A strong entity tag of a file's bytes.
fn tag_of(content: &[u8]) -> String {
    format!(
        "\"{}\"",
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, content))
    )
}

/// Does the browser have these bytes? A proxy that compresses makes the tag a weak one (RFC 9110 §13.1.2).
fn has_it(asked: &HeaderMap, tag: &str) -> bool {
    let lists = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn get_file(path: &str, if_none_match: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        router::<()>()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    fn header_of<'a>(response: &'a Response, name: &str) -> &'a str {
        response
            .headers()
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn text_of(file: &DashboardFile) -> &'static str {
        std::str::from_utf8(file.content).unwrap()
    }

    /// Our own, not the chart library's.
    fn scripts() -> impl Iterator<Item = &'static DashboardFile> {
        FILES
            .iter()
            .filter(|file| file.content_type == SCRIPT && !file.path.contains("uPlot"))
    }

    /// What stands between two marks, each time.
    fn between<'a>(
        text: &'a str,
        before: &'a str,
        after: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        text.split(before)
            .skip(1)
            .filter_map(move |rest| rest.split_once(after))
            .map(|(inner, _)| inner)
    }

    #[tokio::test]
    async fn every_file_that_the_page_names_is_served_with_its_type() {
        let page = text_of(&FILES[0]);
        let mut named: Vec<String> = between(page, "\"/assets/", "\"")
            .map(|name| format!("/assets/{name}"))
            .collect();
        for script in scripts() {
            named.extend(
                between(text_of(script), "from \"./", "\"").map(|name| format!("/assets/{name}")),
            );
        }
        assert!(named.len() > 20, "{named:?}");
        for path in &named {
            let response = get_file(path, None).await;
            assert_eq!(response.status(), 200, "{path}");
            let kind = match path.rsplit_once('.').unwrap().1 {
                "js" => SCRIPT,
                "css" => STYLE,
                _ => PICTURE,
            };
            assert_eq!(header_of(&response, "content-type"), kind, "{path}");
        }
        for file in FILES
            .iter()
            .filter(|file| file.path != "/" && !file.path.ends_with("LICENSE"))
        {
            assert!(
                named.iter().any(|path| path == file.path),
                "nothing uses {}",
                file.path
            );
        }
    }

    #[tokio::test]
    async fn no_file_may_run_load_or_be_framed_by_anything_of_another_origin() {
        for file in FILES {
            let response = get_file(file.path, None).await;
            let policy = header_of(&response, "content-security-policy");
            for rule in [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "frame-ancestors 'none'",
            ] {
                assert!(
                    policy.split("; ").any(|one| one == rule),
                    "{}: {policy}",
                    file.path
                );
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(header_of(&response, "x-content-type-options"), "nosniff");
            assert_eq!(header_of(&response, "x-frame-options"), "DENY");
            assert_eq!(header_of(&response, "referrer-policy"), "no-referrer");
        }
    }

    #[test]
    fn the_page_has_no_inline_script_or_style_and_its_scripts_set_text_only() {
        let page = text_of(&FILES[0]);
        for banned in [
            " style=",
            "<style",
            " onclick",
            " onload",
            " onerror",
            "javascript:",
            "<script>",
            "//",
        ] {
            assert!(!page.contains(banned), "index.html has {banned}");
        }
        for script in scripts() {
            let text = text_of(script).replace("name === \"innerHTML\"", "");
            for banned in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                ".style.cssText",
            ] {
                assert!(!text.contains(banned), "{} has {banned}", script.path);
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_the_browser_has_is_not_sent_again_and_one_that_changed_is() {
        let first = get_file("/assets/app.js", None).await;
        let tag = header_of(&first, "etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() > 40, "{tag}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let again = get_file("/assets/app.js", Some(&known)).await;
            assert_eq!(again.status(), 304, "{known}");
            assert_eq!(header_of(&again, "etag"), tag);
            assert!(
                again
                    .into_body()
                    .collect()
                    .await
                    .unwrap()
                    .to_bytes()
                    .is_empty()
            );
        }
        let other = get_file("/assets/app.js", Some("\"of another version\"")).await;
        assert_eq!(other.status(), 200);
        assert!(
            !other
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
    }
}
